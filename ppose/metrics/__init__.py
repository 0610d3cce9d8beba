"""Object keypoint similarity and COCO scores."""
