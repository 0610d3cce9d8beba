import numpy as np
import paddle
import pytest
from conftest import ROOT

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.convert.conversion import convert
from ppose.convert.imhn_source import SimplePoseSource
from ppose.experiment import Experiment
from ppose.models import IMHN
from ppose.weights.loading import set_weights
from ppose.weights.weight_file import WeightsError

WIDTH = "posenet.features.0.before_regress.1.0.conv.weight"
TWO = {"posenet.features.1.before_regress.0.0.bn.bias": (16,)}


def test_a_converted_network_matches_pytorch(checkpoint):
    arrays, golden = checkpoint("simplepose_imhn")
    made = convert(arrays)
    assert (made.source.name, len(made.arrays)) == ("simplepose", 1560)
    assert set(made.target.names.values()) == set(arrays)
    assert "1 of them: input channels from BGR to RGB" in made.summary()
    assert "40 of them: transposed" in made.summary()
    network = Experiment.from_file(ROOT / made.target.config).model
    set_weights(network, made.arrays)
    images = np.random.default_rng(0).uniform(0, 1, (1, 128, 128, 3)).astype(np.float32)
    images = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))
    network.eval()
    with paddle.no_grad():
        maps = network(paddle.to_tensor(images)).numpy()
    expected = golden["output_stack3_scale0"]
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4 * abs(expected).max())


@pytest.fixture
def imhn():
    """Arrays of a small IMHN with SimplePose's names."""
    network = IMHN(SIMPLEPOSE, stacks=2, width=16, increase=8)
    names = SimplePoseSource().target(dict.fromkeys([WIDTH], (16, 24, 3, 3)) | TWO).names
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return {names[n]: a.T if a.ndim == 2 else a for n, a in state.items()}


@pytest.mark.parametrize("index", [0, 100, 300, -1])
def test_a_missing_tensor_is_reported_by_its_published_name(imhn, index, refusal):
    name = list(imhn)[index]
    del imhn[name]
    assert f"1 missing: {name}" in refusal(imhn)


def test_an_unknown_name_similar_to_published_ones_is_rejected(imhn, refusal):
    extra = "posenet.hourglass.0.hg.1.4.convBlock.0.weight"
    assert f"1 unexpected: {extra}" in refusal(imhn | {extra: np.ones((20, 40, 1, 1), "f4")})


def test_a_wrong_shape_is_rejected(imhn, refusal):
    imhn["posenet.features.1.before_regress.0.2.fc.0.weight"] = np.ones((2, 16), "f4")
    assert "fc.0.weight ([16, 2], expected [16, 1])" in refusal(imhn)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("posenet.features.9.before_regress.0.0.bn.bias", (16,), "stacks of at most 8, found 10"),
        (WIDTH, (1024, 1032, 3, 3), "width of at most 512, found 1024"),
        (WIDTH, (16, 15, 3, 3), "increase: expected int in 0..512 and a multiple of 2, found -1"),
        (WIDTH, (20, 24, 3, 3), "width: expected int .* a multiple of 16, found 20"),
        (WIDTH, (16,), "missing or of another shape"),
    ],
)
def test_unsupported_sizes_are_rejected(name, shape, message):
    with pytest.raises(WeightsError, match=message):
        SimplePoseSource().target({WIDTH: (16, 24, 3, 3), name: shape})
