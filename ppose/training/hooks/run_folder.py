"""The config and the start of a run, kept in its folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ppose.training.provenance import STARTS, provenance
from ppose.training.trainer import Hook, Trainer
from ppose.utils.files import atomic_write
from ppose.utils.log import log


class RunFolderHook(Hook):
    """Saves the config and how the run was started, and says what is trained on."""

    def before_train(self, trainer: Trainer) -> None:
        run, step = trainer.experiment, trainer.state.step
        log.info(f"config: {run.save()}")
        facts = {"from_step": step, "seed": run.seed, "devices": trainer.data.sampler.devices}
        add_start(trainer.folder / STARTS, provenance() | facts)
        log.info(f"train: {run.train_dataset.summary()}")
        log.info(f"val:   {run.val_dataset.summary()}")
        if step:
            log.info(f"resumed after step {step} of {trainer.data.last_step}")


def add_start(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a file that lists all starts; a file that is not such a list is renamed."""
    starts: Any = []
    if path.exists():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            starts = None
        if not isinstance(starts, list):
            aside = path.with_name(f"{path.stem}-{time.time_ns()}{path.suffix}")
            path.rename(aside)
            log.info(f"{path} does not list the starts of a run; it is now {aside}")
            starts = []
    with atomic_write(path) as partial:
        partial.write_text(json.dumps([*starts, record], indent=2) + "\n", encoding="utf-8")
