"""The state of a training run as one safetensors file: arrays by name, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.checkpoint import AVERAGE, MODEL, OPTIMIZER
from ppose.engine.average import WeightAverage
from ppose.weightfile import WeightsError, read_arrays, read_metadata, save_arrays

if TYPE_CHECKING:
    from ppose.engine.trainer import Trainer

# What a run is; the rest of its config may change before it is resumed.
_IDENTITY = (
    *("skeleton", "input_size", "model", "codec", "crop", "normalize", "loss"),
    *("train_dataset", "train_transforms", "optimizer", "schedule", "swa", "batch_size", "seed"),
)


def network_arrays(network: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """The network's weights by their public names."""
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def save_state(path: Path, trainer: Trainer) -> None:
    """Writes weights, optimizer, average, step and best score."""
    arrays = {MODEL + k: v for k, v in network_arrays(trainer.network).items()}
    arrays |= {OPTIMIZER + k: v for k, v in _optimizer_arrays(trainer).items()}
    arrays |= {AVERAGE + k: v for k, v in trainer.average.mean.items()}
    facts = {
        "step": trainer.step,
        "steps_per_epoch": trainer.steps_per_epoch,
        "best": trainer.best,
        "averaged": trainer.average.count,
        "config": trainer.experiment.config,
    }
    save_arrays(path, arrays, {"ppose": json.dumps(facts)})


def load_state(path: Path, trainer: Trainer) -> tuple[int, float | None]:
    """Puts a saved state into the trainer's network and optimizer.

    Returns:
        step and best score.

    Raises:
        FileNotFoundError: there is nothing to resume.
        WeightsError: not a training state, or one of another network.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"nothing to resume: there is no {path}; start without --resume, or set output_dir"
        )
    arrays = read_arrays(path)
    facts = json.loads(read_metadata(path).get("ppose", "null"))
    if not isinstance(facts, dict) or "step" not in facts:
        raise WeightsError(f"{path} holds weights but no training state; pass it as weights")
    _same_run(path, facts["config"], trainer.experiment.config)
    if facts["steps_per_epoch"] != trainer.steps_per_epoch:
        raise WeightsError(
            f"{path} comes from epochs of {facts['steps_per_epoch']} steps, but now they have "
            f"{trainer.steps_per_epoch}: the data or the number of devices has changed. Start a "
            "new run from these weights with pretrain_weights"
        )
    weights = _below(MODEL, arrays)
    own = trainer.network.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: tuple(v.shape) for k, v in own.items()}:
        raise WeightsError(f"{path} is the state of another network")
    trainer.network.set_state_dict(weights)
    _set_optimizer_arrays(trainer, _below(OPTIMIZER, arrays))
    trainer.average = WeightAverage(_below(AVERAGE, arrays), facts.get("averaged", 0))
    return facts["step"], facts["best"]


def _below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _same_run(path: Path, then: dict, now: dict) -> None:
    changed = [k for k in _IDENTITY if then.get(k) != now[k]]
    if changed:
        raise WeightsError(
            f"{path} was trained with another '{changed[0]}': {then.get(changed[0])!r} then, "
            f"{now[changed[0]]!r} now. Resume with the same config, or start a new run from "
            "these weights with pretrain_weights"
        )


def _optimizer_arrays(trainer: Trainer) -> dict[str, np.ndarray]:
    """Accumulators under the names of the parameters that they belong to.

    Paddle names parameters by the order of their creation in the process, which another process
    need not repeat.
    """
    public = {p.name: name for name, p in trainer.network.named_parameters()}
    named = {}
    for key, tensor in trainer.optimizer.state_dict().items():
        own, accumulator = _split(key, public)
        named[f"{public[own]}/{accumulator}"] = tensor.numpy()
    return named


def _split(key: str, parameters: dict[str, str]) -> tuple[str, str]:
    """Paddle joins the parameter's and the accumulator's name by an underscore; both have some."""
    parts = key.split("_")
    for end in range(len(parts) - 1, 0, -1):
        own = "_".join(parts[:end])
        if own in parameters:
            return own, "_".join(parts[end:])
    raise KeyError(f"the optimizer's state '{key}' belongs to no parameter")


def _set_optimizer_arrays(trainer: Trainer, arrays: dict[str, np.ndarray]) -> None:
    own = {name: p.name for name, p in trainer.network.named_parameters()}
    state = {}
    for key, array in arrays.items():
        name, _, accumulator = key.partition("/")
        state[f"{own[name]}_{accumulator}"] = paddle.to_tensor(array)
    trainer.optimizer.set_state_dict(state)
