"""Early stopping."""

from __future__ import annotations

from ppose.config import register
from ppose.config.ranges import Count


@register
class EarlyStop:
    """Early stopping: ends a run whose AP no longer improves (`early_stop:` of a config).

    Args:
        patience: consecutive evaluations without a better AP that end the run.
    """

    def __init__(self, patience: Count):
        self.patience = patience

    def ends(self, stale: int) -> bool:
        """Whether the run ends after `stale` evaluations without a better AP."""
        return stale >= self.patience
