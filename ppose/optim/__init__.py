"""Optimizers, learning-rate schedules, weight averaging, mixed precision, batch norm."""
