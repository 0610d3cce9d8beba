"""Mixed precision: half precision numbers, and what keeps small gradients alive in them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import paddle

from ppose.registry import ConfigError

AmpType = Literal["off", "fp16", "bf16"]
AmpLevel = Literal["O1", "O2"]

_DTYPES: dict[str, Literal["float16", "bfloat16"]] = {"fp16": "float16", "bf16": "bfloat16"}
# Below this scale an overflow is none of scaling: the run has diverged.
_LEAST_SCALE = 1.0


class Precision:
    """How a network computes in training (Micikevicius et al., ICLR 2018).

    At O1 convolutions and matrix products run in half precision on float32 weights; at O2 the
    weights are half precision too, and the optimizer keeps float32 copies. Batch norm and losses
    are float32 in both. With fp16 the loss is scaled, and a step whose gradients overflow is
    left out.

    Args:
        amp: "off" computes in float32.
        level: O1 or O2; without meaning when off.

    Raises:
        ConfigError: half precision on a CPU, where Paddle computes in float32 without a word.
    """

    def __init__(self, amp: AmpType = "off", level: AmpLevel = "O1"):
        if amp != "off" and not on_gpu():
            raise ConfigError(
                f"amp: {amp} needs a GPU, as Paddle has no half precision in training on a CPU; "
                "set amp=off"
            )
        self.amp = amp
        self.level = level
        # Like PyTorch's and Paddle's own defaults for training from scratch.
        self.scaler = _Scaler(
            enable=amp == "fp16", init_loss_scaling=2.0**16, incr_every_n_steps=2000
        )

    def prepare(self, network: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
        """Makes network and optimizer what the level needs: at O2 with half precision weights."""
        if self.amp != "off" and self.level == "O2":
            # In place: both stay the objects that they are.
            paddle.amp.decorate(
                models=[network],
                optimizers=[optimizer],
                level="O2",
                dtype=_DTYPES[self.amp],
                master_weight=True,
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which the network computes as in training."""
        if self.amp == "off":
            return nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=_DTYPES[self.amp])

    def evaluating(self) -> AbstractContextManager[Any]:
        """A context for evaluation: float32 wherever the weights are."""
        return self.autocast() if self.level == "O2" else nullcontext()

    @property
    def loss_scale(self) -> float | None:
        """Factor of the loss now; None without scaling."""
        return self.state()["scale"] if self.scaler.is_enable() else None

    def backward(self, loss: paddle.Tensor) -> None:
        """Adds a loss's gradients to those of the parameters, scaled."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Takes the scale from the gradients, behind the last backward of a step."""
        if self.scaler.is_enable():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Updates the weights and then the scale.

        Returns:
            whether the update was made; False for gradients that overflowed.
        """
        if not self.scaler.is_enable():
            optimizer.step()
            return True
        self.scaler.step(optimizer)
        done = not bool(self.scaler._cache_found_inf)
        self.scaler.update()
        return done

    @property
    def is_spent(self) -> bool:
        """Whether gradients that overflow now would do so without scaling too."""
        scale = self.loss_scale
        return scale is not None and scale < _LEAST_SCALE

    def state(self) -> dict[str, float]:
        """What a resumed run needs: the scale and its counter, as plain numbers."""
        if not self.scaler.is_enable():
            return {}
        found = self.scaler.state_dict()
        return {
            "scale": float(found["scale"][0]),
            "good_steps": int(found["incr_count"]),
        }

    def load_state(self, state: dict[str, float]) -> None:
        """Goes on from what `state` gave."""
        if not (state and self.scaler.is_enable()):
            return
        own = self.scaler.state_dict()
        own["scale"][...] = state["scale"]
        own["incr_count"] = int(state["good_steps"])
        self.scaler.load_state_dict(own)


class _Scaler(paddle.amp.GradScaler):
    """Paddle's; its own update prints the scale in a way that NumPy 2.4 refuses."""

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


def masters(
    network: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> dict[str, paddle.Tensor]:
    """The network's tensors by their public names, in float32 where the optimizer keeps them so."""
    kept = optimizer._master_weights
    return {name: kept.get(t.name, t) for name, t in network.state_dict().items()}
