"""Smaller and faster networks: int8 and distillation, on PaddleSlim."""
