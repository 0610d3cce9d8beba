"""When a run has learnt what it can."""

from __future__ import annotations

from ppose.registry import register


@register
class EarlyStop:
    """Ends a run whose AP no longer rises, as `early_stop:` names it.

    Args:
        patience: evaluations in a row without a better AP that end it.
    """

    def __init__(self, patience: int):
        if patience < 1:
            raise ValueError(f"patience has to be at least 1, found {patience}")
        self.patience = patience

    def ends(self, stale: int) -> bool:
        """Whether so many evaluations since the best one are enough."""
        return stale >= self.patience
