"""One optimizer step: forward, loss, backward, agree, update."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from ppose.data.loader import EpochSampler
from ppose.experiment import Experiment
from ppose.training.state import TrainState
from ppose.utils import distributed
from ppose.utils.errors import PposeError

Batch = dict[str, paddle.Tensor]


class DivergedError(PposeError, FloatingPointError):
    """A loss or the weights became NaN or infinite."""


@dataclass
class StepReport:
    """What one step did.

    Attributes:
        losses: each loss by name, the mean over the samples of all devices.
        lr: learning rate of the step.
        grad_norm: global L2 norm of the gradients before clipping; None where not asked for.
        samples: of all devices.
        replaced: of them, substitutes for samples whose image could not be read.
        stopping: some device was asked to stop.
        data_seconds: time spent waiting for the data.
        seconds: time of the whole step.
        loss_scale: of fp16, else None.
        skipped: gradients overflowed in fp16; the weights are as before.
        batch: the last batch of this device.
    """

    losses: dict[str, float]
    lr: float
    grad_norm: float | None
    samples: int
    replaced: int
    stopping: bool
    data_seconds: float
    seconds: float
    loss_scale: float | None
    skipped: bool
    batch: Batch = field(repr=False)

    @property
    def loss(self) -> float:
        """Sum of all losses."""
        return sum(self.losses.values())


class Stepper:
    """Moves the weights of a state, on all devices as on one.

    Args:
        experiment: loss, normalisation and seed.
        state: network, optimizer, precision, freezing and distillation; its step is not counted on.
        sampler: how many samples a step has.
    """

    def __init__(self, experiment: Experiment, state: TrainState, sampler: EpochSampler):
        self.experiment = experiment
        self.optimizer = state.optimizer
        self.precision = state.precision
        self.freezing = state.freezing
        self.distillation = state.distillation
        self.network = state.network
        self.sampler = sampler
        forward: paddle.nn.Layer = state.distillation or state.network
        if experiment.to_static:
            forward = _Compiled(state.network)
        self.forward = forward if sampler.devices == 1 else paddle.DataParallel(forward)

    def run(
        self,
        batches: Sequence[Batch],
        step: int,
        lr: float,
        waited: float = 0.0,
        with_norm: bool = False,
        stop: bool = False,
    ) -> StepReport:
        """One optimizer step.

        Args:
            batches: what `TrainingSet` gives, stacked; the gradients of all are added up.
            step: its number in the run, from 0.
            lr: learning rate.
            waited: seconds that the batches took to arrive.
            with_norm: measure the gradients.
            stop: this device was asked to stop.

        Raises:
            DivergedError: a loss is not finite; the trained weights are as they were.
        """
        started = time.perf_counter()
        self.freezing.train(self.network)
        self._seed(step)
        self.optimizer.set_lr(lr)
        samples = self.sampler.samples_in(step)
        try:
            names, own = self._add_gradients(batches, samples)
            *of_all, replaced, stops = distributed.all_reduce_sum(
                _with_counts(own, batches, stop)
            ).tolist()
            losses = dict(zip(names, of_all, strict=True))
            self._check_finite(step, losses, own, batches)
            self.precision.unscale(self.optimizer)
            norm = self._gradient_norm() if with_norm else None
            scale = self.precision.loss_scale
            updated = self.precision.step(self.optimizer)
            if not updated and self.precision.is_exhausted:
                raise DivergedError(
                    f"step {step}: the gradients overflow however little the loss is scaled; "
                    "amp=bf16 or a lower learning rate usually helps"
                )
        finally:
            self.optimizer.clear_grad()
        return StepReport(
            losses=losses,
            lr=lr,
            grad_norm=norm,
            samples=samples,
            replaced=int(replaced),
            stopping=stops > 0,
            data_seconds=waited,
            seconds=time.perf_counter() - started + waited,
            loss_scale=scale,
            skipped=not updated,
            batch=batches[-1],
        )

    def _seed(self, step: int) -> None:
        """What is random inside a network follows from the step, so that resuming needs no RNG."""
        place = (self.experiment.seed, step, self.sampler.rank)
        paddle.seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def _add_gradients(
        self, batches: Sequence[Batch], samples: int
    ) -> tuple[list[str], paddle.Tensor]:
        """Adds the gradients of the mean loss over the samples of all devices.

        Returns:
            the losses' names, and this device's part of their means, float64.
        """
        own = paddle.zeros([1], "float64")
        for i, batch in enumerate(batches):
            # Devices exchange their gradients after the last batch only.
            with self._alone() if i < len(batches) - 1 else nullcontext():
                losses = self._losses(batch)
                share = len(batch["index"]) / samples
                # DataParallel takes the mean over devices, whose batches may differ by a sample.
                scaled = paddle.add_n([*losses.values()]) * (share * self.sampler.devices)
                self.precision.backward(scaled)
            # They stay on the device: each number that is read would wait for it.
            own = own + share * paddle.stack([*losses.values()]).detach().astype("float64")
        return list(losses), own

    def _losses(self, batch: Batch) -> dict[str, paddle.Tensor]:
        """The loss and what the teacher adds, each by name."""
        images = self.experiment.normalize(batch["image"])
        lessons: dict[str, paddle.Tensor] = {}
        with self.precision.autocast():
            if self.distillation is None:
                outputs = self.forward(images)
            else:
                own = self.distillation.normalize(batch["image"])
                outputs, lessons = self.forward(images, own, batch["target"])
        return self.experiment.loss(outputs, batch) | lessons

    def _alone(self) -> AbstractContextManager[None]:
        return nullcontext() if self.sampler.devices == 1 else self.forward.no_sync()

    def _check_finite(
        self, step: int, losses: dict[str, float], own: paddle.Tensor, batches: Sequence[Batch]
    ) -> None:
        """A loss of NaN or infinity stops the run before it harms the weights."""
        bad = next((name for name, value in losses.items() if not np.isfinite(value)), None)
        if bad is None:
            return
        where = "on another device"
        if not np.isfinite(own.numpy()).all():
            indices = np.concatenate([batch["index"].numpy() for batch in batches])
            where = f"people of the batch: {self._names(indices)}"
        raise DivergedError(
            f"step {step}: the loss '{bad}' is {losses[bad]}, {where}. "
            "The weights of the last checkpoint are not touched; a lower learning rate, "
            "clip_norm or a longer warm-up usually helps, and amp=bf16 where fp16 is too narrow."
        )

    def _names(self, indices: np.ndarray) -> str:
        source = self.experiment.train_dataset
        names = [
            f"{source.images[source.image_index[i]].path.name} (id {source.person_ids[i]})"
            for i in indices
        ]
        return ", ".join(names)

    @paddle.no_grad()
    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.optimizer._parameter_list if p.grad is not None]
        squares = [gradient.astype("float32").square().sum() for gradient in gradients]
        return float(paddle.add_n(squares).sqrt())


def _with_counts(own: paddle.Tensor, batches: Sequence[Batch], stop: bool) -> paddle.Tensor:
    """Losses, replaced samples and whether to stop: what devices tell each other in a step."""
    replaced = paddle.add_n([batch["replaced"].sum() for batch in batches]).astype("float64")
    return paddle.concat([own, replaced.reshape([1]), paddle.full([1], stop, "float64")])


class _Compiled(paddle.nn.Layer):
    """Runs a network as a static graph; outside training the network itself is used."""

    def __init__(self, network: paddle.nn.Layer):
        super().__init__()
        self.network = network
        self.run = paddle.jit.to_static(network.forward, full_graph=True)

    def forward(self, images: paddle.Tensor) -> Any:
        return self.run(images)
