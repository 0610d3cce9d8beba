"""Whether a checkpoint belongs to a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppose.config import current_names
from ppose.experiment import Experiment
from ppose.training.data import TrainingData
from ppose.weights.weight_file import WeightsError

# What a run is; the rest of its config may change before it is resumed.
_IDENTITY = (
    *("skeleton", "input_size", "model", "codec", "crop", "normalize", "loss"),
    *("train_dataset", "train_transforms", "optimizer", "schedule", "swa", "ema", "batch_size"),
    *("teacher", "quantize"),
    *("accumulate", "amp", "amp_level", "freeze", "sync_batch_norm", "overfit_batch", "seed"),
)
# What an AP depends on beside the weights.
_MEASURE = ("val_dataset", "metric", "postprocess", "flip_test")
_PATHS = {"image_dir", "anno_path"}


def run_facts(experiment: Experiment, data: TrainingData) -> dict[str, Any]:
    """What a saved state keeps of the run that it belongs to."""
    return {
        "steps_per_epoch": data.steps_per_epoch,
        "data": data.dataset.fingerprint(),
        "config": experiment.config,
    }


def check_same_run(
    path: Path, facts: dict[str, Any], experiment: Experiment, data: TrainingData
) -> None:
    """WeightsError if the facts of a checkpoint are those of another run."""
    then, now = facts["config"], experiment.config
    if changed := _changed(_IDENTITY, then, now):
        raise WeightsError(
            f"{path} was trained with another '{changed[0]}': {then.get(changed[0])!r} then, "
            f"{now[changed[0]]!r} now. Resume with the same config, or start a new run from "
            "these weights with pretrain_weights"
        )
    if facts["steps_per_epoch"] != data.steps_per_epoch:
        raise WeightsError(
            f"{path} comes from epochs of {facts['steps_per_epoch']} steps, but now they have "
            f"{data.steps_per_epoch}: the data or the number of devices has changed. Start a "
            "new run from these weights with pretrain_weights"
        )
    if facts["data"] != data.dataset.fingerprint():
        raise WeightsError(
            f"{path} was trained on other annotations than those of train_dataset now. Start a new "
            "run from these weights with pretrain_weights"
        )


def changed_measure(facts: dict[str, Any], experiment: Experiment) -> str | None:
    """The key of the config that makes its AP another measure than that of the checkpoint."""
    changed = _changed(_MEASURE, facts["config"], experiment.config)
    return changed[0] if changed else None


def _changed(keys: Sequence[str], then: dict, now: dict) -> list[str]:
    return [key for key in keys if _without_paths(then, key) != _without_paths(now, key)]


def _without_paths(config: dict, key: str) -> Any:
    """A part of a config as it is on any machine, in the names of this version."""
    part = current_names(config.get(key))
    if not isinstance(part, dict):
        return part
    return {k: v for k, v in part.items() if k not in _PATHS}
