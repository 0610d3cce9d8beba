"""Stochastic weight averaging."""

from __future__ import annotations

import paddle

from ppose.compression.quantize import quantized_layers
from ppose.optim.batch_norm import reestimate_batch_norm
from ppose.optim.swa import SWA
from ppose.training.hooks.scoring import save_weights, score
from ppose.training.state import float_arrays
from ppose.training.trainer import Hook, Trainer
from ppose.weights.swap import swapped_weights


class SWAHook(Hook):
    """Gathers weights as `SWA` says; evaluates and saves their mean after the last step."""

    def after_epoch(self, trainer: Trainer) -> None:
        if _swa(trainer).takes(trainer.epoch):
            trainer.state.share_statistics()
            trainer.state.swa.add(float_arrays(trainer.state.weights()))

    def after_train(self, trainer: Trainer) -> None:
        state, average = trainer.state, trainer.state.swa
        if not average.count:
            return
        network = state.network
        with swapped_weights(network, average.mean):
            with state.precision.evaluating():
                reestimate_batch_norm(
                    network,
                    trainer.data.further_images(),
                    _swa(trainer).norm_batches,
                    keep=[*state.freezing.norms, *quantized_layers(network).values()],
                )
            state.share_statistics()
            # The statistics are measured; all else may be in half precision there.
            own = network.state_dict()
            measured = {name: t.clone() for name, t in own.items() if t.stop_gradient}
            mean = {name: paddle.to_tensor(a) for name, a in average.mean.items()} | measured
        if trainer.is_main:
            save_weights(trainer, "swa", mean, {"sets": str(average.count)})
        score(trainer, mean, f"mean of the weights of {average.count} epochs")


def _swa(trainer: Trainer) -> SWA:
    assert trainer.experiment.swa is not None
    return trainer.experiment.swa
