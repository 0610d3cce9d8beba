"""Early stop."""

from __future__ import annotations

from ppose.training.trainer import Hook, Trainer
from ppose.utils.log import log


class EarlyStopHook(Hook):
    """Ends the run after the epoch in which `EarlyStop` says so."""

    def after_epoch(self, trainer: Trainer) -> None:
        state, early_stop = trainer.state, trainer.experiment.early_stop
        assert early_stop is not None
        if early_stop.ends(state.stale) and state.step < trainer.data.last_step:
            state.end_early()
            if trainer.is_main:
                log.info(
                    f"stopped early: no better AP in {state.stale} evaluations "
                    f"(early_stop.patience={early_stop.patience})"
                )
