"""Freezing of parameters and batch norms."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from ppose.config import ConfigError
from ppose.config.patterns import match_names
from ppose.optim.batch_norm import BATCH_NORMS


class Freezing:
    """Freezes parameters of a network, and batch norms in eval mode.

    A batch norm all of whose parameters are frozen also keeps its statistics in training.

    Args:
        network: its frozen parameters get `stop_gradient`.
        patterns: regular expressions; parameters whose names begin with a match are frozen.
        all_norms: all batch norms keep their statistics; the patterns decide about their weights.

    Attributes:
        names: names of the frozen parameters.
        norms: batch norms that keep their statistics.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """

    def __init__(self, network: paddle.nn.Layer, patterns: Sequence[str], all_norms: bool = False):
        parameters = dict(network.named_parameters())
        self.names = frozen_names(network, patterns)
        for name in self.names:
            parameters[name].stop_gradient = True
        self.norms = [
            layer
            for name, layer in network.named_sublayers()
            if isinstance(layer, BATCH_NORMS)
            and (all_norms or self.names.issuperset(_parameter_names(name, layer)))
        ]

    def train(self, network: paddle.nn.Layer) -> None:
        """Sets the network to training mode, except for frozen batch norms."""
        network.train()
        for norm in self.norms:
            norm.eval()


def frozen_names(network: paddle.nn.Layer, patterns: Sequence[str]) -> set[str]:
    """Names of the parameters that patterns freeze.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    names = {n for pattern in patterns for n in match_names(pattern, parameters, "freeze")}
    if all(name in names or parameter.stop_gradient for name, parameter in parameters.items()):
        raise ConfigError(f"freeze: {list(patterns)} leave nothing to train")
    return names


def _parameter_names(name: str, layer: paddle.nn.Layer) -> list[str]:
    return [f"{name}.{own}" for own, _ in layer.named_parameters()]
