"""Pose estimation on images, shared by evaluation, inference and deployment."""
