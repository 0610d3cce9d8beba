"""What a training run is at one step, as arrays by name and facts for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from ppose.checkpoint import ADAPTER, AVERAGE, EMA, MODEL, OPTIMIZER
from ppose.engine.average import WeightAverage
from ppose.engine.ema import MovingAverage
from ppose.log import log
from ppose.weightfile import WeightsError

if TYPE_CHECKING:
    from ppose.engine.trainer import Trainer

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
_MASTERS = "master_weights"
_HALF = (paddle.float16, paddle.bfloat16)


def arrays_of(trainer: Trainer) -> dict[str, np.ndarray]:
    """Weights, optimizer and averages. The RNG is no part: each step seeds it from its number."""
    arrays = {MODEL + k: v for k, v in float_arrays(trainer.weights()).items()}
    arrays |= {OPTIMIZER + k: v for k, v in _optimizer_arrays(trainer).items()}
    arrays |= {AVERAGE + k: v for k, v in trainer.average.mean.items()}
    if trainer.distillation:
        arrays |= {ADAPTER + k: v for k, v in float_arrays(trainer.distillation.trained).items()}
    if trainer.moving:
        arrays |= {EMA + k: v for k, v in float_arrays(trainer.moving.mean).items()}
    return arrays


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """All of a state that is no array."""
    return {
        "step": trainer.step,
        "steps_per_epoch": trainer.steps_per_epoch,
        "best": trainer.best,
        "stale": trainer.stale,
        "finished": trainer.finished,
        "data": trainer.dataset.fingerprint(),
        "averaged": trainer.average.count,
        "precision": trainer.precision.state(),
        "config": trainer.experiment.config,
    }


def restore(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any], to: Trainer) -> None:
    """Puts a state into a trainer of the same run.

    Args:
        path: where it came from, for messages.
        arrays, facts: as `arrays_of` and `facts_of` gave them.
        to: its network, optimizer, averages, step and scores are set.

    Raises:
        WeightsError: the state is one of another run; nothing was set.
    """
    now = to.experiment.config
    _same_run(path, facts["config"], now)
    if facts["steps_per_epoch"] != to.steps_per_epoch:
        raise WeightsError(
            f"{path} comes from epochs of {facts['steps_per_epoch']} steps, but now they have "
            f"{to.steps_per_epoch}: the data or the number of devices has changed. Start a "
            "new run from these weights with pretrain_weights"
        )
    if facts["data"] != to.dataset.fingerprint():
        raise WeightsError(
            f"{path} was trained on other annotations than those of train_dataset now. Start a new "
            "run from these weights with pretrain_weights"
        )
    weights = _below(MODEL, arrays)
    own = to.network.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: tuple(v.shape) for k, v in own.items()}:
        raise WeightsError(f"{path} is the state of another network")
    for name, tensor in own.items():
        tensor.set_value(paddle.to_tensor(weights[name]).astype(tensor.dtype))
    if to.distillation:
        for name, tensor in to.distillation.trained.items():
            tensor.set_value(arrays[ADAPTER + name])
    _set_optimizer_arrays(to, _below(OPTIMIZER, arrays), weights)
    to.average = WeightAverage(_below(AVERAGE, arrays), facts["averaged"])
    if to.moving:
        to.moving = MovingAverage({k: paddle.to_tensor(v) for k, v in _below(EMA, arrays).items()})
    to.precision.load_state(facts["precision"])
    to.step, to.finished = facts["step"], facts["finished"]
    if changed := _changed(_MEASURE, facts["config"], now):
        log.info(f"'{changed[0]}' is another than before: the best AP so far does not count")
    else:
        to.best, to.stale = facts["best"], facts["stale"]


def float_arrays(tensors: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    """Tensors by name as arrays, half precision as float32."""
    return {
        name: (t.astype("float32") if t.dtype in _HALF else t).numpy()
        for name, t in tensors.items()
    }


def _below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _same_run(path: Path, then: dict, now: dict) -> None:
    changed = _changed(_IDENTITY, then, now)
    if changed:
        raise WeightsError(
            f"{path} was trained with another '{changed[0]}': {then.get(changed[0])!r} then, "
            f"{now[changed[0]]!r} now. Resume with the same config, or start a new run from "
            "these weights with pretrain_weights"
        )


def _changed(keys: Sequence[str], then: dict, now: dict) -> list[str]:
    return [key for key in keys if _without_paths(then, key) != _without_paths(now, key)]


def _without_paths(config: dict, key: str) -> Any:
    """A part of a config as it is on any machine."""
    part = config.get(key)
    if not isinstance(part, dict):
        return part
    return {k: v for k, v in part.items() if k not in _PATHS}


def _optimizer_arrays(trainer: Trainer) -> dict[str, np.ndarray]:
    """Accumulators under the names of the parameters that they belong to.

    Paddle names parameters by the order of their creation in the process, which another process
    need not repeat.
    """
    public = {p.name: name for name, p in trainer.trained().items()}
    state = trainer.optimizer.state_dict()
    state.pop(_MASTERS, None)  # the model's own arrays are these
    named = {}
    for key, tensor in state.items():
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


def _set_optimizer_arrays(
    trainer: Trainer, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]
) -> None:
    own = trainer.trained()
    state: dict[str, Any] = {}
    for key, array in arrays.items():
        name, _, accumulator = key.partition("/")
        state[f"{own[name].name}_{accumulator}"] = paddle.to_tensor(array)
    halves = {name: p for name, p in own.items() if p.dtype in _HALF and not p.stop_gradient}
    if halves:
        state[_MASTERS] = {p.name: _master(p, weights[name]) for name, p in halves.items()}
    trainer.optimizer.set_state_dict(state)


def _master(parameter: paddle.Tensor, weights: np.ndarray) -> paddle.Tensor:
    """The optimizer's float32 copy, under the name by which it finds its accumulators."""
    master = paddle.to_tensor(weights)
    master.name = f"{parameter.name}_fp32_master_0"
    return master
