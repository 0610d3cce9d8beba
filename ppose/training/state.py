"""The state of a training run: all that changes with its steps, saved and restored as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from ppose.compression.distill import Distillation
from ppose.models import Network
from ppose.optim.amp import Precision, master_weights
from ppose.optim.ema import MovingAverage
from ppose.optim.freezing import Freezing
from ppose.utils import distributed
from ppose.weights.average import WeightAverage
from ppose.weights.tensor_names import ADAPTER, AVERAGE, EMA, MODEL, OPTIMIZER

_MASTERS = "master_weights"
_HALF = (paddle.float16, paddle.bfloat16)


@dataclass
class TrainState:
    """A run at one step.

    It holds no random state: each step seeds the generators with its own number.

    Attributes:
        network: its weights and batch-norm statistics.
        optimizer: moves `trained`.
        precision: how the network computes, with the loss scale of fp16.
        freezing: which of the network's weights and statistics stay as they are.
        distillation: the teacher and what is compared with it, or None.
        ema: moving average of the weights, or None.
        swa: weights gathered for their mean.
        step: optimizer steps done, over the whole run.
        best: best AP so far, None before the first evaluation.
        stale: evaluations since the best one.
        ending: the run ends after this epoch.
        finished: everything that follows the last step is done too.
    """

    network: Network
    optimizer: paddle.optimizer.Optimizer
    precision: Precision
    freezing: Freezing
    distillation: Distillation | None = None
    ema: MovingAverage | None = None
    swa: WeightAverage = field(default_factory=WeightAverage)
    step: int = 0
    best: float | None = None
    stale: int = 0
    ending: bool = False
    finished: bool = False

    def trained(self) -> dict[str, paddle.Tensor]:
        """What the optimizer moves, by name: the network's parameters and the adapters'."""
        adapters = self.distillation.trained if self.distillation else {}
        return dict(self.network.named_parameters()) | adapters

    def weights(self) -> dict[str, paddle.Tensor]:
        """The network's tensors by name, in float32 where the optimizer keeps such copies."""
        return master_weights(self.network, self.optimizer)

    def evaluated_weights(self) -> dict[str, paddle.Tensor]:
        """The weights that are scored and kept: those of EMA if there is one."""
        return self.ema.mean if self.ema else self.weights()

    def share_statistics(self) -> None:
        """Gives all processes the batch-norm statistics of the first, which are the saved ones."""
        own = self.network.state_dict()
        names = [name for name, tensor in own.items() if tensor.stop_gradient]
        distributed.broadcast_tensors([own[name] for name in names])
        if self.ema:
            distributed.broadcast_tensors([self.ema.mean[name] for name in names])

    def record_score(self, ap: float) -> bool:
        """Takes note of an evaluation's AP (0..1, NaN counts as 0); True if it is the best."""
        ap = 0.0 if np.isnan(ap) else ap
        if self.best is not None and ap <= self.best:
            self.stale += 1
            return False
        self.best, self.stale = ap, 0
        return True

    def forget_scores(self) -> None:
        """The best AP so far does not count any more."""
        self.best, self.stale = None, 0

    def end_early(self) -> None:
        """No further epoch is trained."""
        self.ending = True

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, optimizer and averages by name."""
        arrays = {MODEL + k: v for k, v in float_arrays(self.weights()).items()}
        arrays |= {OPTIMIZER + k: v for k, v in self._optimizer_arrays().items()}
        arrays |= {AVERAGE + k: v for k, v in self.swa.mean.items()}
        if self.distillation:
            arrays |= {ADAPTER + k: v for k, v in float_arrays(self.distillation.trained).items()}
        if self.ema:
            arrays |= {EMA + k: v for k, v in float_arrays(self.ema.mean).items()}
        return arrays

    def facts(self) -> dict[str, Any]:
        """Everything that is not an array, ready for JSON."""
        return {
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "finished": self.finished,
            "averaged": self.swa.count,
            "accumulators": len(self.optimizer.state_dict().keys() - {_MASTERS}),
            "precision": self.precision.state(),
        }

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Becomes the state that `arrays` and `facts` came from, of the same run."""
        weights = below(MODEL, arrays)
        for name, tensor in self.network.state_dict().items():
            tensor.set_value(paddle.to_tensor(weights[name]).astype(tensor.dtype))
        if self.distillation:
            for name, tensor in self.distillation.trained.items():
                tensor.set_value(arrays[ADAPTER + name])
        self._set_optimizer_arrays(below(OPTIMIZER, arrays), weights)
        self.swa = WeightAverage(below(AVERAGE, arrays), facts["averaged"])
        if self.ema:
            mean = {name: paddle.to_tensor(array) for name, array in below(EMA, arrays).items()}
            self.ema = MovingAverage(mean)
        self.precision.load_state(facts["precision"])
        self.step, self.finished = facts["step"], facts["finished"]
        self.best, self.stale = facts["best"], facts["stale"]

    def _optimizer_arrays(self) -> dict[str, np.ndarray]:
        """Accumulators under the names of the parameters that they belong to.

        Paddle names parameters by the order of their creation in the process, which another
        process need not repeat.
        """
        public = {p.name: name for name, p in self.trained().items()}
        state = self.optimizer.state_dict()
        state.pop(_MASTERS, None)  # the model's own arrays are these
        named = {}
        for key, tensor in state.items():
            own, accumulator = _split(key, public)
            named[f"{public[own]}/{accumulator}"] = tensor.numpy()
        return named

    def _set_optimizer_arrays(
        self, arrays: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
    ) -> None:
        own = self.trained()
        state: dict[str, Any] = {}
        for key, array in arrays.items():
            name, _, accumulator = key.partition("/")
            state[f"{own[name].name}_{accumulator}"] = paddle.to_tensor(array)
        halves = {name: p for name, p in own.items() if p.dtype in _HALF and not p.stop_gradient}
        if halves:
            state[_MASTERS] = {p.name: _master(p, weights[name]) for name, p in halves.items()}
        self.optimizer.set_state_dict(state)


def float_arrays(tensors: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    """Tensors by name as arrays, half precision as float32."""
    return {
        name: (t.astype("float32") if t.dtype in _HALF else t).numpy()
        for name, t in tensors.items()
    }


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _split(key: str, parameters: dict[str, str]) -> tuple[str, str]:
    """Paddle joins the parameter's and the accumulator's name by an underscore; both have some."""
    parts = key.split("_")
    for end in range(len(parts) - 1, 0, -1):
        own = "_".join(parts[:end])
        if own in parameters:
            return own, "_".join(parts[end:])
    raise KeyError(f"the optimizer's state '{key}' belongs to no parameter")


def _master(parameter: paddle.Tensor, weights: np.ndarray) -> paddle.Tensor:
    """The optimizer's float32 copy, under the name by which it finds its accumulators."""
    master = paddle.to_tensor(weights)
    master.name = f"{parameter.name}_fp32_master_0"
    return master
