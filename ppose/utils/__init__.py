"""Helpers without any knowledge of poses: errors, files, logging, progress, downloads."""
