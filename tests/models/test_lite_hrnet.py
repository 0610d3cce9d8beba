from typing import get_args, get_type_hints

import numpy as np
import paddle
import pytest
from golden.weights_by_name import fill
from paddle.nn import functional as F

from ppose.models import LiteHRNet
from ppose.models.lite_hrnet import VARIANTS, Fusion, interleave

WIDTHS = [4, 8, 16, 32]


@pytest.fixture
def maps():
    """One map for each of four resolutions."""
    return [paddle.randn([2, width, 32 >> i, 16 >> i]) for i, width in enumerate(WIDTHS)]


def test_every_variant_can_be_named_in_a_config():
    assert get_args(get_type_hints(LiteHRNet.__init__)["network"]) == tuple(VARIANTS)


def test_unknown_network_suggests_the_nearest_name():
    with pytest.raises(ValueError, match="unknown Lite-HRNet 'lite18'; did you mean 'lite_18'?"):
        LiteHRNet("lite18")


def test_interleave_matches_channel_shuffle():
    first, second = paddle.randn([2, 5, 4, 3]), paddle.randn([2, 5, 4, 3])
    expected = F.channel_shuffle(paddle.concat([first, second], axis=1), 2)
    np.testing.assert_array_equal(interleave(first, second).numpy(), expected.numpy())


def test_fusion_matches_the_published_loop(maps):
    fusion = Fusion(WIDTHS)
    fill(fusion)
    fusion.eval()
    before = [x.numpy() for x in maps]
    with paddle.no_grad():
        fused = [x.numpy() for x in fusion(maps)]
        expected = [F.relu(x).numpy() for x in published_sums(fusion, maps)]
    for result, reference in zip(fused, expected, strict=True):
        np.testing.assert_allclose(result, reference, rtol=0, atol=1e-5)
    for x, value in zip(maps, before, strict=True):
        np.testing.assert_array_equal(x.numpy(), value)


def published_sums(fusion, maps):
    """The published loop, with overwritten tensors and upsampling per path written out."""
    maps, sums = list(maps), []
    for i, paths in enumerate(fusion):
        total = paths[0](maps[0])
        for j, path in enumerate(paths):
            branch = path(maps[j])
            total = total + (F.interpolate(branch, scale_factor=2 ** (j - i)) if j > i else branch)
            if i == 0:
                maps[0] = total
        sums.append(total)
    return sums
