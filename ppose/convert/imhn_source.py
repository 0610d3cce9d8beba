"""PyTorch checkpoints of SimplePose's IMHN."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.convert.simplepose_names import FIRST_CONVOLUTION, targets
from ppose.convert.source import Shapes, Source, TargetNetwork
from ppose.models import IMHN, Network
from ppose.models.imhn import SCALES
from ppose.weights.weight_file import WeightsError

if TYPE_CHECKING:
    import torch

_CONFIGS = {(4, 256, 128): "configs/imhn_4stack_512x512_coco.yml"}
# Limits, so that a file cannot fill the memory. The published network has 4, 256 and 128.
_LARGEST = {"stacks": 8, "width": 512, "increase": 256}


class SimplePoseSource(Source):
    """SimplePose's IMHN with any number of stacks (Li et al., AAAI 2020)."""

    name = "simplepose"
    signature = "posenet.…"

    def recognises(self, names: Collection[str]) -> bool:
        return any(name.startswith("posenet.") for name in names)

    def target(self, shapes: Shapes) -> TargetNetwork:
        stacks, width, increase = _size(shapes)
        try:
            network = IMHN(SIMPLEPOSE, stacks, width, increase)
        except ValueError as error:
            raise WeightsError(f"IMHN of {stacks} stacks: {error}") from None
        state = network.state_dict()

        def reference() -> torch.nn.Module:
            from ppose.convert.reference import imhn as torch_imhn

            return torch_imhn.IMHN(stacks, width, increase, network.channels)

        return TargetNetwork(
            title=f"IMHN of {stacks} stacks, width {width} + {increase}, {network.channels} maps",
            network=network,
            config=_CONFIGS.get((stacks, width, increase)),
            names={
                target: name
                for name, target in targets(_published_names(stacks)).items()
                if target in state
            },
            reference=reference,
        )

    def adapt(self, name: str, array: np.ndarray) -> tuple[np.ndarray, str]:
        if name == FIRST_CONVOLUTION and array.ndim == 4:
            return array[:, ::-1], "input channels from BGR to RGB"
        if array.ndim == 2:
            return array.T, "transposed, a linear layer"
        return array, ""

    def outputs(self, network: Network, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The maps of all stacks and scales, including those that are only computed in training."""
        network.eval()
        network.training = True
        stacks = network(images)
        network.training = False
        return [maps for scales in stacks for maps in scales]

    def reference_input(self, images: np.ndarray) -> np.ndarray:
        """Images (N, H, W, 3), BGR."""
        return np.ascontiguousarray(images[:, ::-1].transpose(0, 2, 3, 1))


def _size(shapes: Shapes) -> tuple[int, int, int]:
    """Stacks, width and increase, from the shapes of the tensors."""
    found = {n: re.match(r"posenet\.features\.(\d+)\.", n) for n in shapes}
    stacks = max((int(f[1]) + 1 for f in found.values() if f), default=0)
    # The second scale's first convolution has width + increase inputs and width outputs.
    pattern = r"posenet\.features\.\d+\.before_regress\.1\.0\.conv\.weight"
    votes = Counter(s[:2] for n, s in shapes.items() if len(s) == 4 and re.fullmatch(pattern, n))
    if not votes:
        raise WeightsError(
            "cannot determine the width: posenet.features.0.before_regress.1.0.conv.weight is "
            "missing or of another shape"
        )
    (width, inputs), _ = votes.most_common(1)[0]
    size = {"stacks": stacks, "width": width, "increase": inputs - width}
    for what, value in size.items():
        if value > _LARGEST[what]:
            raise WeightsError(f"IMHN: expected {what} of at most {_LARGEST[what]}, found {value}")
    return stacks, width, inputs - width


def _published_names(stacks: int) -> list[str]:
    """The published names of all tensors, and some that do not exist in any network."""
    block = [f"convBlock.{i}" for i in (0, 1, 3, 4, 6, 7)] + ["skipConv.0", "skipConv.1"]
    unit, level, scale = ("conv", "bn"), range(SCALES - 1), range(SCALES)
    each, merged = range(stacks), range(stacks - 1)
    modules = [
        *("pre.conv1", "pre.bn1"),
        *_all("pre.res{}.{}", (1, 2), block),
        *_all("pre.dilation.{}.{}", range(6), unit),
        *_all("hourglass.{}.hg.{}.{}.{}", each, level, (0, 1, 2), block),
        *_all("hourglass.{}.hg.{}.3.{}", each, level, unit),
        *_all("hourglass.{}.hg.{}.4.{}", each, level[-1:], block),
        *_all("features.{}.before_regress.{}.{}.{}", each, scale, (0, 1), unit),
        *_all("features.{}.before_regress.{}.2.fc.{}", each, scale, (0, 2)),
        *_all("outs.{}.{}.conv", each, scale),
        *_all("merge_features.{}.{}.conv.{}", merged, scale, unit),
        *_all("merge_preds.{}.{}.conv.{}", merged, scale, unit),
    ]
    return _all("posenet.{}.{}", modules, ("weight", "bias", "running_mean", "running_var"))


def _all(template: str, *choices: Iterable[object]) -> list[str]:
    return [template.format(*chosen) for chosen in product(*choices)]
