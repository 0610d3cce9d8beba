"""What a kind of PyTorch checkpoint has to tell, so that ppose can take its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.convert.checkpoint import AVERAGED
from ppose.models import Network

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Variant:
    """The network that a checkpoint belongs to.

    Attributes:
        title: what it is, for people.
        network: ppose's, still without the weights.
        config: a config that ships with this network; None if there is none.
        names: ppose's name of each tensor → the checkpoint's.
        reference: makes the PyTorch network with the checkpoint's names; needs PyTorch. It
            gives maps or a list of maps.
    """

    title: str
    network: Network
    config: str | None
    names: Mapping[str, str]
    reference: Callable[[], torch.nn.Module]


class Source(ABC):
    """One kind of checkpoint.

    Attributes:
        name: as `--source` takes it.
        sign: how to know it, for messages.
    """

    name: str
    sign: str

    @abstractmethod
    def recognises(self, names: Collection[str]) -> bool:
        """Whether tensors of these names are of this kind."""

    @abstractmethod
    def variant(self, shapes: Shapes) -> Variant:
        """The network, told from names and shapes of the tensors.

        Raises:
            WeightsError: no network that ppose has.
        """

    def unused(self, name: str) -> str | None:
        """Why a tensor without a place may be left out; None if it may not."""
        if name.endswith(".num_batches_tracked"):
            return "num_batches_tracked, a count that only training reads"
        if name == AVERAGED:
            return "n_averaged, how many models are in the mean"
        return None

    def adapt(self, name: str, array: np.ndarray) -> tuple[np.ndarray, str]:
        """The array as ppose's tensor `name` wants it, and what was changed, if anything."""
        return array, ""

    def outputs(self, network: Network, images: paddle.Tensor) -> list[paddle.Tensor]:
        """All that ppose's network computes in training, with the statistics of evaluation."""
        network.eval()
        return [network(images)]

    def reference_input(self, images: np.ndarray) -> np.ndarray:
        """Images (N, 3, H, W), RGB, as the PyTorch network takes them."""
        return images
