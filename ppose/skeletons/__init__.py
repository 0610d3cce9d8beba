"""Built-in skeletons, one JSON file each."""
