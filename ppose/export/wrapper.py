"""Export wrapper: adds preprocessing and, optionally, peak finding to a network."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppose.codecs.body_parts import BodyParts
from ppose.codecs.codec import Codec
from ppose.codecs.heatmap import Heatmap
from ppose.data.normalize import Normalize
from ppose.deploy.bundle import IMAGES, INSIDE, MAPS
from ppose.models.network import Network

_NO_PEAK = -1e30  # lower than any map value


class ExportWrapper(nn.Layer):
    """A network with pixels as input and maps or peaks as output.

    The input is images (N, H, W, 3), uint8 RGB. The output is `maps` (N, channels, h, w), float32,
    or, with a codec, the input of its `decode_peaks`. With a bottom-up codec there is a second
    input: `inside` (N, 1, h, w), float32, 0 for cells in the padding.

    Args:
        network: normalised images (N, 3, H, W) → maps.
        normalize: normalisation of the pixels.
        codec: codec whose peaks are found; None to output the maps.
    """

    def __init__(self, network: Network, normalize: Normalize, codec: Codec | None = None):
        super().__init__()
        self.network = network
        scale, offset = 1 / normalize.std, -normalize.mean / normalize.std
        self.register_buffer("scale", paddle.to_tensor(scale.reshape(1, 3, 1, 1)))
        self.register_buffer("offset", paddle.to_tensor(offset.reshape(1, 3, 1, 1)))
        self.peaks = None if codec is None else _peak_finder(codec)

    def forward(self, images: Tensor, inside: Tensor | None = None) -> dict[str, Tensor]:
        """Pixels → `maps`, or peaks."""
        pixels = images.astype("float32").transpose([0, 3, 1, 2])
        maps = self.network(pixels * self.scale + self.offset)
        if self.peaks is None:
            return {MAPS: maps}
        return self.peaks(maps if inside is None else maps * inside)


def input_specs(codec: Codec, batch: int | None, finds_peaks: bool) -> dict[str, tuple]:
    """Shape and dtype of each input of `ExportWrapper`, for `trace`; -1 for a dynamic size."""
    count = -1 if batch is None else batch
    width, height = codec.size_wh if codec.uses_boxes else (-1, -1)
    inputs = {IMAGES: ((count, height, width, 3), "uint8")}
    if finds_peaks and not codec.uses_boxes:
        inputs[INSIDE] = ((count, 1, -1, -1), "float32")
    return inputs


def _peak_finder(codec: Codec) -> nn.Layer:
    if isinstance(codec, Heatmap):
        return HeatmapPeaks(codec)
    if isinstance(codec, BodyParts):
        return BodyPartsPeaks(codec)
    raise TypeError(f"{type(codec).__name__}: finding peaks in the network is not supported")


class HeatmapPeaks(nn.Layer):
    """Maps (N, K, h, w) → the input of `Heatmap.decode_peaks`."""

    def __init__(self, codec: Heatmap):
        super().__init__()
        self.radius = codec.patch_radius
        self.joints = codec.channels
        width, height = codec.cells_wh
        side = 2 * self.radius + 1
        indices = np.arange((height + side - 1) * (width + side - 1))
        padded = indices.reshape(height + side - 1, width + side - 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
        # For each cell, the flat indices of its patch in the padded map.
        self.register_buffer("around", paddle.to_tensor(windows.reshape(height * width, -1)))

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        """`cell`, the highest cell of each map, and `patch`, the values around it."""
        joints, radius = self.joints, self.radius
        _, cell = paddle.topk(maps.flatten(2), 1, axis=2)
        indices = paddle.gather(self.around, cell.reshape([-1]))
        padded = F.pad(maps, [radius] * 4, "constant", 0.0)
        flat = padded.flatten(2)
        indices = indices.reshape([-1, joints, indices.shape[1]])
        patch = paddle.take_along_axis(flat, indices, 2, broadcast=False)
        side = 2 * radius + 1
        patch = patch.reshape([-1, joints, side, side])
        return {"cell": cell.reshape([-1, joints]), "patch": patch}


class BodyPartsPeaks(nn.Layer):
    """Maps (N, channels, h, w) → the input of `BodyParts.decode_peaks`."""

    def __init__(self, codec: BodyParts):
        super().__init__()
        self.joint_channels, self.limb_channels = codec.joint_channels, codec.parts.limb_channels
        self.count = codec.grouping.max_peaks

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        """`cell`, `height` and `patch` of each joint's highest local maxima, and `limbs` maps."""
        joints = maps[:, self.joint_channels]
        neighbours = _windows(F.pad(joints, [1] * 4, "constant", _NO_PEAK))
        # As in `find_peaks`: the first of equal neighbours in row-major order is the peak.
        first = joints > _maximum(neighbours[:4])
        last = joints >= _maximum(neighbours[5:])
        no_peak = paddle.scale(joints, 0.0, bias=_NO_PEAK)
        peaks = paddle.where(first, paddle.where(last, joints, no_peak), no_peak)
        height, cell = paddle.topk(peaks.flatten(2), self.count, axis=2)
        # Slots without a peak are ties, which backends order differently: make them all equal.
        unused = height < paddle.scale(height, 0.0)
        height = paddle.where(unused, paddle.scale(height, 0.0, bias=-1.0), height)
        cell = paddle.where(unused, paddle.scale(cell, 0.0), cell)
        around = [
            paddle.take_along_axis(one.flatten(2), cell, 2, broadcast=False)
            for one in _windows(F.pad(joints, [1] * 4, "replicate"))
        ]
        patch = paddle.concat([one.unsqueeze(3) for one in around], 3).reshape([0, 0, 0, 3, 3])
        limbs = maps[:, self.limb_channels]
        return {"cell": cell, "height": height, "patch": patch, "limbs": limbs}


def _windows(padded: Tensor) -> list[Tensor]:
    """The nine shifted views of maps padded by one cell, in row-major order."""
    ends = ((0, -2), (1, -1), (2, None))
    return [
        padded[:, :, top : bottom or 2**31 - 1, left : right or 2**31 - 1]
        for top, bottom in ends
        for left, right in ends
    ]


def _maximum(maps: list[Tensor]) -> Tensor:
    return paddle.concat([one.unsqueeze(0) for one in maps]).max(axis=0)
