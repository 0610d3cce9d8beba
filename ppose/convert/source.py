"""Base class of the supported kinds of PyTorch checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.convert.torch_file import AVERAGED
from ppose.models import Network

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TargetNetwork:
    """The network to which a checkpoint is converted.

    Attributes:
        title: description for messages.
        network: ppose's network, without the weights.
        config: config file with this network; None if there is none.
        names: ppose's name of each tensor → name in the checkpoint.
        reference: builds the PyTorch network with the checkpoint's names; needs PyTorch. Its
            output is maps or a list of maps.
    """

    title: str
    network: Network
    config: str | None
    names: Mapping[str, str]
    reference: Callable[[], torch.nn.Module]


class Source(ABC):
    """A kind of checkpoint.

    Attributes:
        name: value for `--source`.
        signature: characteristic tensor names, for messages.
    """

    name: str
    signature: str

    @abstractmethod
    def recognises(self, names: Collection[str]) -> bool:
        """Whether these tensor names belong to this kind of checkpoint."""

    @abstractmethod
    def target(self, shapes: Shapes) -> TargetNetwork:
        """The network, determined from the names and shapes of the tensors.

        Raises:
            WeightsError: the network is not supported.
        """

    def unused(self, name: str) -> str | None:
        """Why an unused tensor can be skipped; None if it cannot."""
        if name.endswith(".num_batches_tracked"):
            return "num_batches_tracked, only used in training"
        if name == AVERAGED:
            return "n_averaged, the number of averaged models"
        return None

    def adapt(self, name: str, array: np.ndarray) -> tuple[np.ndarray, str]:
        """The array in the layout of ppose's tensor `name`, and a description of the change."""
        return array, ""

    def outputs(self, network: Network, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The training outputs of ppose's network, with batch norms in eval mode."""
        network.eval()
        return [network(images)]

    def reference_input(self, images: np.ndarray) -> np.ndarray:
        """Images (N, 3, H, W), RGB, converted to the input of the PyTorch network."""
        return images
