"""Pose estimation on video files, streams and cameras."""
