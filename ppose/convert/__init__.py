"""Conversion of PyTorch checkpoints of other projects."""
