"""Inference with exported networks; requires NumPy, OpenCV, PyYAML and one backend only."""
