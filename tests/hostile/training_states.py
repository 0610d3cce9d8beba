"""Training states: whole containers with the right checksum and other content."""

from __future__ import annotations

import copy
import functools
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import safetensors.numpy

from hostile.harness import Reader
from ppose.optim.amp import Precision
from ppose.optim.ema import MovingAverage
from ppose.optim.freezing import Freezing
from ppose.optim.optimizers import Adam
from ppose.training.checkpoints import _checksum, read_state
from ppose.training.run_identity import changed_measure
from ppose.training.state import TrainState
from ppose.training.state_check import check_arrays, check_facts

_STEP = 7
_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 0.5, 10**30, 1e308, float("nan"), float("inf"), "", "\x1b[31m"),
    *([], {}, [[]], {"a": {}}, "x" * 10_000),
)


def _state() -> tuple[TrainState, SimpleNamespace]:
    """The state of a small network before its first step, and of its experiment what is needed."""
    network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 2, 1), paddle.nn.BatchNorm2D(2))
    optimizer = Adam(1e-3)
    made = optimizer.create(dict(network.named_parameters()))
    state = TrainState(network, made, Precision(), Freezing(network, [], False))
    state.ema = MovingAverage(state.weights())
    return state, SimpleNamespace(optimizer=optimizer, swa=True, config={"metric": {}})


@functools.cache
def _whole() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts after some steps."""
    state, _ = _state()
    for _ in range(_STEP):
        state.network(paddle.ones([1, 3, 2, 2])).square().mean().backward()
        state.optimizer.step()
        state.optimizer.clear_grad()
        state.step += 1
    state.swa.add({name: tensor.numpy() for name, tensor in state.weights().items()})
    facts = state.facts() | {"steps_per_epoch": 3, "data": "a", "config": {"metric": {}}}
    return state.arrays(), facts


def _generate(rng: random.Random) -> bytes:
    whole_arrays, whole_facts = _whole()
    arrays, facts = dict(whole_arrays), copy.deepcopy(whole_facts)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        name, fact = rng.choice(sorted(arrays)), rng.choice(sorted(facts))
        array = arrays[name]
        match rng.randrange(9):
            case 0:
                del arrays[name]
            case 1:
                arrays[rng.choice((name + "x", "optimizer.x", "model.", "other"))] = array
            case 2:
                arrays[name] = array.reshape(rng.choice(((-1,), (1, -1), (*array.shape, 1))))
            case 3:
                arrays[name] = array.astype(rng.choice(("f2", "f8", "i4", "u1", "b1")))
            case 4:
                arrays[name] = np.full_like(array, rng.choice((np.nan, np.inf, -1, 9, 1e30)))
            case 5:
                arrays[name] = array[:0] if array.ndim else array
            case 6:
                del facts[fact]
            case _:
                facts[fact] = rng.choice(_ODD)
    content = {"format": 1, "step": _STEP, "facts": facts}
    if rng.random() < 0.1:
        content[rng.choice(("format", "step", "facts"))] = rng.choice(_ODD)
    text = json.dumps(content)
    if rng.random() < 0.03:
        text = text.replace("{}", '{"a":' * 900 + "1" + "}" * 900)
    return safetensors.numpy.save(arrays, {"ppose": text, "sha256": _checksum(text, arrays)})


def _read(path: Path) -> object:
    """As `--resume` does; what is loaded is what was saved."""
    state, experiment = _state()
    saved = read_state(path)
    check_facts(path, saved.step, saved.facts)
    changed_measure(saved.facts, experiment)
    check_arrays(path, saved.arrays, saved.facts, state, experiment)
    state.restore(saved.arrays, saved.facts)
    found = state.arrays()
    assert found.keys() == saved.arrays.keys()
    assert all(np.array_equal(array, found[name]) for name, array in saved.arrays.items())
    assert all(saved.facts[name] == value for name, value in state.facts().items())
    return state


READERS = [Reader("training state", ".safetensors", _generate, _read)]
