"""Metrics: object keypoint similarity (OKS) and COCO scores."""
