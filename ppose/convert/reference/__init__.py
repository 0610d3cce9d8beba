"""PyTorch reference networks for the verification of conversions."""
