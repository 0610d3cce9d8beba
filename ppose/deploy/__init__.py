"""Runs exported bundles; needs NumPy, OpenCV, PyYAML and one backend, nothing that trains."""
