"""Automatic mixed precision (AMP) with loss scaling."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import paddle

from ppose.config import ConfigError

AmpType = Literal["off", "fp16", "bf16"]
AmpLevel = Literal["O1", "O2"]

_DTYPES: dict[str, Literal["float16", "bfloat16"]] = {"fp16": "float16", "bf16": "bfloat16"}
# Below this scale, an overflow is not caused by scaling: the run has diverged.
_MIN_SCALE = 1.0


class Precision:
    """Mixed-precision training (Micikevicius et al., ICLR 2018).

    At O1, convolutions and matrix products run in half precision on float32 weights. At O2, the
    weights are half precision too, and the optimizer keeps float32 master weights. Batch norm and
    losses are float32 at both levels. With fp16 the loss is scaled, and a step whose gradients
    overflow is skipped.

    Args:
        amp: "off" computes in float32.
        level: O1 or O2; ignored if `amp` is off.

    Raises:
        ConfigError: half precision on a CPU, where Paddle silently computes in float32.
    """

    def __init__(self, amp: AmpType = "off", level: AmpLevel = "O1"):
        if amp != "off" and not on_gpu():
            raise ConfigError(
                f"amp: {amp} needs a GPU, as Paddle does not train in half precision on a CPU; "
                "set amp=off"
            )
        self.amp = amp
        self.level = level
        # The defaults of PyTorch and Paddle for training from scratch.
        self.scaler = _Scaler(
            enable=amp == "fp16", init_loss_scaling=2.0**16, incr_every_n_steps=2000
        )

    def prepare(self, network: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
        """Prepares network and optimizer in place: at O2 the weights become half precision."""
        if self.amp != "off" and self.level == "O2":
            paddle.amp.decorate(
                models=[network],
                optimizers=[optimizer],
                level="O2",
                dtype=_DTYPES[self.amp],
                master_weight=True,
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for the forward pass in training."""
        if self.amp == "off":
            return nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=_DTYPES[self.amp])

    def evaluating(self) -> AbstractContextManager[Any]:
        """A context for the forward pass in evaluation, in float32 unless the weights are not."""
        return self.autocast() if self.level == "O2" else nullcontext()

    @property
    def loss_scale(self) -> float | None:
        """Current scale of the loss; None without scaling."""
        return self.state()["scale"] if self.scaler.is_enable() else None

    def backward(self, loss: paddle.Tensor) -> None:
        """Accumulates the gradients of the scaled loss."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Divides the gradients by the scale, after the last backward of a step."""
        if self.scaler.is_enable():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Updates the weights, then the scale.

        Returns:
            whether the weights were updated; False if the gradients overflowed.
        """
        if not self.scaler.is_enable():
            optimizer.step()
            return True
        self.scaler.step(optimizer)
        updated = not bool(self.scaler._cache_found_inf)
        self.scaler.update()
        return updated

    @property
    def is_exhausted(self) -> bool:
        """Whether the scale is so low that gradients would overflow without scaling too."""
        scale = self.loss_scale
        return scale is not None and scale < _MIN_SCALE

    def state(self) -> dict[str, float]:
        """State for checkpoints: the scale and its counter, as plain numbers."""
        if not self.scaler.is_enable():
            return {}
        state = self.scaler.state_dict()
        return {
            "scale": float(state["scale"][0]),
            "good_steps": int(state["incr_count"]),
        }

    def load_state(self, state: dict[str, float]) -> None:
        """Restores the result of `state`."""
        if not (state and self.scaler.is_enable()):
            return
        own = self.scaler.state_dict()
        own["scale"][...] = state["scale"]
        own["incr_count"] = int(state["good_steps"])
        self.scaler.load_state_dict(own)


class _Scaler(paddle.amp.GradScaler):
    """Paddle's GradScaler, whose own update prints the scale in a way that NumPy 2.4 refuses."""

    def _update(self) -> None:
        assert self._scale is not None
        if self._cache_found_inf:
            self._incr_count = 0
            self._scale = self._scale * self._decr_ratio
        else:
            self._incr_count += 1
            if self._incr_count == self._incr_every_n_steps:
                self._incr_count = 0
                self._scale = self._scale * self._incr_ratio


def on_gpu() -> bool:
    """Whether Paddle computes on a GPU in this process."""
    return paddle.get_device().startswith("gpu")


def master_weights(
    network: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> dict[str, paddle.Tensor]:
    """The network's tensors by name, with the optimizer's float32 copies where it has them."""
    masters = optimizer._master_weights
    return {name: masters.get(t.name, t) for name, t in network.state_dict().items()}
