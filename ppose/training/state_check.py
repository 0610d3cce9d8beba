"""Whether a training state is whole: anybody can write a file with the right checksum."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppose.experiment import Experiment
from ppose.optim.optimizers import Optimizer
from ppose.training.state import TrainState, below
from ppose.weights.tensor_names import AVERAGE, MODEL, OPTIMIZER
from ppose.weights.weight_file import WeightsError

# Of what `Precision.prepare` makes at O2, in the names of accumulators.
_OF_MASTER = "fp32_master_0_"
_LARGEST = 1 << 53  # of a counter


def check_facts(path: Path, step: int, facts: Mapping[str, Any]) -> None:
    """WeightsError unless a state has the facts that `TrainState` and `run_facts` write.

    Args:
        path: of the state.
        step: optimizer steps done, by its name.
        facts: see `State`.
    """
    for name, (expected, fits) in _FACTS.items():
        if name not in facts:
            raise WeightsError(f"{path}: the training state has no '{name}'")
        if not fits(facts[name]):
            raise WeightsError(
                f"{path}: '{name}' of the training state is {_shown(facts[name])}, "
                f"expected {expected}"
            )
    if facts["step"] != step:
        raise WeightsError(f"{path}: is the state of step {step}, but counts {facts['step']}")


def check_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    state: TrainState,
    experiment: Experiment,
) -> None:
    """WeightsError unless `state.restore` can take all of a saved state, and nothing is left.

    Args:
        path: of the saved state.
        arrays, facts: of the saved state; the facts are checked.
        state: of the same run at any step; not changed.
        experiment: of the run.
    """
    most = facts["step"] // facts["steps_per_epoch"] if experiment.swa else 0
    if facts["averaged"] > most:
        raise WeightsError(
            f"{path}: the mean of {facts['averaged']} epochs, expected at most {most}"
        )
    expected = {
        name: (a.shape, a.dtype.name)
        for name, a in state.arrays().items()
        if not name.startswith((OPTIMIZER, AVERAGE))  # those that a run has after its first steps
    }
    network = {name: form for name, form in expected.items() if name.startswith(MODEL)}
    found = {name: (a.shape, a.dtype.name) for name, a in arrays.items()}
    if {n: found[n][0] for n in found if n.startswith(MODEL)} != {
        n: s for n, (s, _) in network.items()
    }:
        raise WeightsError(f"{path} is the state of another network")
    if facts["averaged"]:
        expected |= {
            AVERAGE + name.removeprefix(MODEL): (shape, "float32")
            for name, (shape, _) in network.items()
        }
    own = [name for name in found if not name.startswith(OPTIMIZER)]
    for name in sorted(expected.keys() ^ own):
        raise WeightsError(
            f"{path}: the training state "
            + (f"has no '{name}'" if name in expected else f"has '{name}', which this run has not")
        )
    for name in own:
        if found[name] != expected[name]:
            raise WeightsError(
                f"{path}: '{name}' is {found[name][1]} {list(found[name][0])}, "
                f"expected {expected[name][1]} {list(expected[name][0])}"
            )
    _check_accumulators(path, below(OPTIMIZER, arrays), facts, state, experiment.optimizer)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{path}: '{name}' is not finite")
        if name.endswith(("._variance", "/moment2_0")) and array.size and array.min() < 0:
            raise WeightsError(f"{path}: '{name}' is negative, expected a mean of squares")
        if "_pow_acc" in name and not 0 <= array.min() <= array.max() <= 1:
            raise WeightsError(f"{path}: '{name}' is {array.max():g}, expected 0 to 1")
    if facts["precision"].keys() != state.precision.state().keys():
        raise WeightsError(f"{path}: 'precision' of the training state is of another amp")


def _check_accumulators(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    state: TrainState,
    optimizer: Optimizer,
) -> None:
    """A parameter that was moved has all that the optimizer keeps of one, others have nothing."""
    kept = _kept_by(optimizer)
    moved: dict[str, set[str]] = {}
    trained = {name: p for name, p in state.trained().items() if not p.stop_gradient}
    for name, array in arrays.items():
        parameter, _, accumulator = name.partition("/")
        accumulator = accumulator.removeprefix(_OF_MASTER)
        if parameter not in trained or accumulator not in kept:
            raise WeightsError(
                f"{path}: the training state has '{OPTIMIZER}{name}', which this run has not"
            )
        shape = tuple(trained[parameter].shape) if kept[accumulator] else (1,)
        if array.shape != shape or array.dtype != np.float32:
            raise WeightsError(
                f"{path}: '{OPTIMIZER}{name}' is {array.dtype} {list(array.shape)}, "
                f"expected float32 {list(shape)}"
            )
        moved.setdefault(parameter, set()).add(accumulator)
    for parameter, accumulators in moved.items():
        for missing in kept.keys() - accumulators:
            raise WeightsError(
                f"{path}: the training state has no '{OPTIMIZER}{parameter}/{missing}'"
            )
    # A state of ppose 0.1.0 does not say how many there are.
    count = facts.get("accumulators", len(arrays))
    if count != len(arrays):
        raise WeightsError(
            f"{path}: the training state has {len(arrays)} arrays of the optimizer, "
            f"expected {_shown(count)}"
        )


def _kept_by(optimizer: Optimizer) -> dict[str, bool]:
    """What an optimizer keeps of a parameter, and whether it has the parameter's shape.

    Paddle is asked by a step with a parameter of its own.
    """
    plain = copy.copy(optimizer)
    plain.lr_factors = {}
    parameter = paddle.create_parameter(
        [2, 3], "float32", default_initializer=paddle.nn.initializer.Constant(1.0)
    )
    trial = plain.create({"parameter": parameter})
    parameter.sum().backward()
    trial.step()
    prefix = f"{parameter.name}_"
    return {
        name.removeprefix(prefix): tensor.shape == [2, 3]
        for name, tensor in trial.state_dict().items()
        if name.startswith(prefix)
    }


def _is_counter(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_precision(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() not in (set(), {"scale", "good_steps"}):
        return False
    return not value or (
        _is_number(value["scale"]) and value["scale"] > 0 and _is_counter(value["good_steps"])
    )


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:40]


_FACTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("step", "stale", "averaged"), ("a counter", _is_counter)),
    "best": ("an AP or null", lambda v: v is None or (_is_number(v) and -1 <= v <= 1)),
    "finished": ("true or false", lambda v: isinstance(v, bool)),
    "precision": ("the scale of the loss", _is_precision),
    "steps_per_epoch": ("a counter", lambda v: _is_counter(v) and v > 0),
    "data": ("a text", lambda v: isinstance(v, str)),
    "config": ("a config", lambda v: isinstance(v, dict)),
}
