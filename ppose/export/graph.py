"""What is put before and behind a network, so that pixels go in and little comes out."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppose.codecs.bodyparts import BodyParts
from ppose.codecs.codec import Codec
from ppose.codecs.heatmap import Heatmap
from ppose.data.transforms import Normalize
from ppose.deploy.bundle import IMAGES, INSIDE, MAPS
from ppose.models.network import Network

_NOWHERE = -1e30  # below every value of a map


class FromPixels(nn.Layer):
    """A network that takes the pixels of its inputs.

    `forward` takes images (N, H, W, 3) uint8 RGB and gives `maps` (N, channels, h, w) float32; or
    with a codec what its `people_at` reads, for bottom-up networks of images and `inside`
    (N, 1, h, w) float32, which is 0 on the cells that show padding.

    Args:
        network: normalised (N, 3, H, W) → maps.
        normalize: pixels → the network's input.
        codec: whose peaks are found; None gives the maps.
    """

    def __init__(self, network: Network, normalize: Normalize, codec: Codec | None = None):
        super().__init__()
        self.network = network
        scale, offset = 1 / normalize.std, -normalize.mean / normalize.std
        self.register_buffer("scale", paddle.to_tensor(scale.reshape(1, 3, 1, 1)))
        self.register_buffer("offset", paddle.to_tensor(offset.reshape(1, 3, 1, 1)))
        self.peaks = None if codec is None else _peaks_of(codec)

    def forward(self, images: Tensor, inside: Tensor | None = None) -> dict[str, Tensor]:
        """Pixels → `maps`, or peaks."""
        pixels = images.astype("float32").transpose([0, 3, 1, 2])
        maps = self.network(pixels * self.scale + self.offset)
        if self.peaks is None:
            return {MAPS: maps}
        return self.peaks(maps if inside is None else maps * inside)


def inputs_of(codec: Codec, batch: int | None, finds_peaks: bool) -> dict[str, tuple]:
    """Shape and type of each input of `FromPixels`, for `trace`; -1 where open."""
    count = -1 if batch is None else batch
    width, height = codec.size_wh if codec.uses_boxes else (-1, -1)
    inputs = {IMAGES: ((count, height, width, 3), "uint8")}
    if finds_peaks and not codec.uses_boxes:
        inputs[INSIDE] = ((count, 1, -1, -1), "float32")
    return inputs


def _peaks_of(codec: Codec) -> nn.Layer:
    if isinstance(codec, Heatmap):
        return HeatmapPeaks(codec)
    if isinstance(codec, BodyParts):
        return BodyPartsPeaks(codec)
    raise TypeError(f"{type(codec).__name__}: no peaks of its maps can be found in the network")


class HeatmapPeaks(nn.Layer):
    """Maps (N, K, h, w) → `cell` and `patch` of `Heatmap.people_at`."""

    def __init__(self, codec: Heatmap):
        super().__init__()
        self.radius = codec.patch_radius
        self.joints = codec.channels
        width, height = codec.cells_wh
        side = 2 * self.radius + 1
        place = np.arange((height + side - 1) * (width + side - 1))
        padded = place.reshape(height + side - 1, width + side - 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
        # Where, in the padded map, the cells around each cell are.
        self.register_buffer("around", paddle.to_tensor(windows.reshape(height * width, -1)))

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        """The highest cell of each map and those around it."""
        joints, radius = self.joints, self.radius
        _, cell = paddle.topk(maps.flatten(2), 1, axis=2)
        places = paddle.gather(self.around, cell.reshape([-1]))
        padded = F.pad(maps, [radius] * 4, "constant", 0.0)
        flat = padded.flatten(2)
        places = places.reshape([-1, joints, places.shape[1]])
        patch = paddle.take_along_axis(flat, places, 2, broadcast=False)
        side = 2 * radius + 1
        patch = patch.reshape([-1, joints, side, side])
        return {"cell": cell.reshape([-1, joints]), "patch": patch}


class BodyPartsPeaks(nn.Layer):
    """Maps (N, channels, h, w) → `cell`, `height`, `patch` and `limbs` of `BodyParts.people_at`."""

    def __init__(self, codec: BodyParts):
        super().__init__()
        self.joint_channels, self.limb_channels = codec.joint_channels, codec.parts.limb_channels
        self.count = codec.grouping.max_peaks

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        """The highest local maxima of the joints' maps, the cells around them, and the limbs."""
        joints = maps[:, self.joint_channels]
        beside = _shifted(F.pad(joints, [1] * 4, "constant", _NOWHERE))
        # As in `find_peaks`: of equal neighbours the first in reading order.
        first = joints > _highest(beside[:4])
        last = joints >= _highest(beside[5:])
        nowhere = paddle.scale(joints, 0.0, bias=_NOWHERE)
        peaks = paddle.where(first, paddle.where(last, joints, nowhere), nowhere)
        height, cell = paddle.topk(peaks.flatten(2), self.count, axis=2)
        # Slots without a peak tie, and each backend orders ties its own way: here all are alike.
        unused = height < paddle.scale(height, 0.0)
        height = paddle.where(unused, paddle.scale(height, 0.0, bias=-1.0), height)
        cell = paddle.where(unused, paddle.scale(cell, 0.0), cell)
        around = [
            paddle.take_along_axis(one.flatten(2), cell, 2, broadcast=False)
            for one in _shifted(F.pad(joints, [1] * 4, "replicate"))
        ]
        patch = paddle.concat([one.unsqueeze(3) for one in around], 3).reshape([0, 0, 0, 3, 3])
        limbs = maps[:, self.limb_channels]
        return {"cell": cell, "height": height, "patch": patch, "limbs": limbs}


def _shifted(padded: Tensor) -> list[Tensor]:
    """The nine windows of maps that were padded by one cell, in reading order."""
    ends = ((0, -2), (1, -1), (2, None))
    return [
        padded[:, :, top : bottom or 2**31 - 1, left : right or 2**31 - 1]
        for top, bottom in ends
        for left, right in ends
    ]


def _highest(maps: list[Tensor]) -> Tensor:
    return paddle.concat([one.unsqueeze(0) for one in maps]).max(axis=0)
