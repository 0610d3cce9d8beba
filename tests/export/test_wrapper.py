"""Export wrapper: normalisation and peaks match those of training and of the codec."""

import numpy as np
import paddle
import pytest

from ppose.codecs.body_parts import BodyParts
from ppose.codecs.codec import Codec
from ppose.codecs.grouping import Grouping
from ppose.codecs.heatmap import Heatmap
from ppose.codecs.part_layout import PartLayout
from ppose.codecs.peaks import MapsError
from ppose.data.normalize import Normalize
from ppose.export.wrapper import ExportWrapper
from ppose.inference.estimator import zero_padding
from ppose.models.network import Network
from ppose.structures.skeleton import COCO17

SIZE_WH = (64, 96)


class ConstantMaps(Network):
    """Returns the given maps for any input."""

    def __init__(self, maps, stride=4):
        super().__init__()
        self.stride, self.size_multiple, self.channels = stride, 4, maps.shape[1]
        self.maps = paddle.to_tensor(maps)

    def forward(self, images):
        self.seen = images
        return self.maps


def peaks_of(maps, codec, inside=None):
    layer = ExportWrapper(ConstantMaps(maps), Normalize(), codec).eval()
    pixels = paddle.zeros([len(maps), 96, 64, 3], "uint8")
    more = [] if inside is None else [paddle.to_tensor(inside)]
    return {name: value.numpy() for name, value in layer(pixels, *more).items()}


def test_pixels_are_normalised_as_in_training():
    network = ConstantMaps(np.zeros((2, 17, 24, 16), np.float32))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3), np.uint8)
    normalize = Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    ExportWrapper(network, normalize).eval()(paddle.to_tensor(pixels))
    assert np.allclose(network.seen.numpy(), normalize(pixels).numpy(), atol=1e-5)


@pytest.mark.parametrize("alignment", ["classic", "udp", "tinypose"])
@pytest.mark.parametrize(
    ("refine", "blur"), [("argmax", 3), ("quarter", 3), ("dark", 3), ("dark", 11)]
)
def test_heatmap_peaks_match_the_decoder(refine, blur, alignment):
    codec = Heatmap(COCO17, SIZE_WH, refine=refine, blur=blur, alignment=alignment)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, 17, 24, 16)).astype(np.float32)
    keypoints = np.dstack([rng.uniform(-4, (68, 100), (17, 2))[None], np.full((1, 17), 2)])
    noise[4] = codec.encode_keypoints(keypoints[0])["target"]
    noise[3, :4] = -1
    expected, found = codec.decode(noise), codec.decode_peaks(peaks_of(noise, codec))
    for (a, factors), (b, others) in zip(expected, found, strict=True):
        assert np.allclose(a, b, atol=1e-5)
        assert np.array_equal(factors, others)


@pytest.mark.parametrize("max_peaks", [256, 3])
def test_body_part_peaks_match_the_decoder(max_peaks):
    parts = PartLayout.named("simplepose")
    codec = BodyParts(
        parts, (128, 96), sigma=5, limb_sigma=5, grouping=Grouping(max_peaks=max_peaks)
    )
    rng = np.random.default_rng(1)
    maps = []
    for people in (0, 1, 4):
        keypoints = np.dstack(
            [rng.uniform(0, (128, 96), (people, 17, 2)), np.full((people, 17), 2)]
        ).astype(np.float32)
        maps.append(codec.encode_keypoints(keypoints)["target"])
    maps = np.stack(maps) + rng.normal(0, 0.02, (3, parts.channels, 24, 32)).astype(np.float32)
    maps[0, parts.joint_channels, 3:5, 7:9] = 0.75  # only one of equal cells is the peak
    cells_wh = np.array([(32, 24), (20, 24), (32, 13)])
    inside = np.zeros((3, 1, 24, 32), np.float32)
    for mask, (width, height) in zip(inside, cells_wh, strict=True):
        mask[:, :height, :width] = 1
    expected = codec.decode(zero_padding(maps.copy(), cells_wh))
    peaks = peaks_of(maps, codec, inside)
    found = codec.decode_peaks(peaks)
    assert sum(len(people) for people, _ in expected) >= 3
    for (a, factors), (b, others) in zip(expected, found, strict=True):
        assert a.shape == b.shape
        assert np.allclose(a, b, atol=1e-4)
        assert np.allclose(factors, others)


@pytest.fixture
def body_parts():
    return BodyParts(PartLayout.named("simplepose"), (128, 96), sigma=5, limb_sigma=5)


def test_slots_without_a_peak_are_equal(body_parts):
    noise = np.random.default_rng(0).standard_normal((1, body_parts.channels, 24, 32))
    noise[0, body_parts.joint_channels.start] = -3  # a single peak, below 0
    peaks = peaks_of(noise.astype(np.float32), body_parts)
    cell, height, patch = (peaks[name] for name in ("cell", "height", "patch"))
    unused = height < 0
    assert unused.any(-1).all()
    assert unused[0, 0].all()
    assert not unused[0, 1].all()
    assert (height[unused] == -1).all()
    assert (cell[unused] == 0).all()
    for of_map, without in zip(patch[0], unused[0], strict=True):
        assert (of_map[without] == of_map[without][0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_maps_with_nan_or_inf_are_rejected(body_parts, value):
    maps = np.zeros((1, body_parts.channels, 24, 32), np.float32)
    maps[0, body_parts.joint_channels.start, 3, 4] = value
    with pytest.raises(MapsError):
        body_parts.decode_peaks(peaks_of(maps, body_parts))


def test_an_unsupported_codec_is_rejected():
    class Other(Codec):
        encode = decode = decode_peaks = flip_back = None

    with pytest.raises(TypeError, match="Other: finding peaks in the network is not supported"):
        ExportWrapper(ConstantMaps(np.zeros((1, 1, 2, 2), np.float32)), Normalize(), Other())
