"""Parts of a network that training leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from ppose.engine.norms import NORMS
from ppose.engine.optim import matching
from ppose.registry import ConfigError


class Freezing:
    """Parameters that take no gradient, and batch norms that keep their statistics.

    A batch norm whose name matches is run with its statistics as they are, in training too.

    Args:
        network: its parameters are marked.
        patterns: regular expressions; what begins with a match is frozen.
        all_norms: all batch norms keep their statistics; their weights are trained as patterns say.

    Attributes:
        names: of the frozen parameters.
        norms: batch norms that keep their statistics.

    Raises:
        ConfigError: a pattern that fits nothing, or nothing is left to train.
    """

    def __init__(self, network: paddle.nn.Layer, patterns: Sequence[str], all_norms: bool = False):
        parameters = dict(network.named_parameters())
        self.names = {n for pattern in patterns for n in matching(pattern, parameters, "freeze")}
        for name in self.names:
            parameters[name].stop_gradient = True
        if all(parameter.stop_gradient for parameter in parameters.values()):
            raise ConfigError(f"freeze: {list(patterns)} leave nothing to train")
        self.norms = [
            layer
            for name, layer in network.named_sublayers()
            if isinstance(layer, NORMS)
            and (all_norms or self.names.issuperset(_names_of(name, layer)))
        ]

    def train(self, network: paddle.nn.Layer) -> None:
        """Sets the network to training, but for what is frozen."""
        network.train()
        for norm in self.norms:
            norm.eval()


def _names_of(name: str, layer: paddle.nn.Layer) -> list[str]:
    return [f"{name}.{own}" for own, _ in layer.named_parameters()]
