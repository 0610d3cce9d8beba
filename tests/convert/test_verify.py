"""The PyTorch reference networks match the published ones, and --verify detects errors."""

from itertools import product

import numpy as np
import pytest

from ppose.convert.conversion import convert
from ppose.convert.topdown_source import MMPOSE, MMPOSE_1, ORIGINAL, HRNetSource, LiteHRNetSource
from ppose.convert.verify import largest_difference
from ppose.models.lite_hrnet import VARIANTS

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "name", ["mmpose_hrnet_w32", "mmpose_lite_hrnet_18", "mmpose_lite_hrnet_30"]
)
def test_reference_networks_match_the_published_outputs(name, checkpoint):
    arrays, golden = checkpoint(name)
    network = convert(arrays).target.reference().eval()
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    images = np.random.default_rng(0).uniform(-2, 2, (1, 3, 256, 192)).astype(np.float32)
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).numpy()
    expected = golden["output"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_reference_imhn_matches_all_published_outputs(checkpoint):
    arrays, golden = checkpoint("simplepose_imhn")
    network = convert(arrays).target.reference().eval()
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    images = np.random.default_rng(0).uniform(0, 1, (1, 128, 128, 3)).astype(np.float32)
    with torch.inference_mode():
        found = network(torch.from_numpy(images))
    indices = product(range(4), range(5))
    for (stack, scale), maps in zip(indices, found, strict=True):
        expected = golden[f"output_stack{stack}_scale{scale}"]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def random_state(network):
    """Random weights with which all layers affect the output."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim > 1:
            tensor.normal_(std=tensor[0].numel() ** -0.5)
        elif tensor.ndim == 1:
            tensor.normal_(mean=0.1, std=0.5)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefixes", [ORIGINAL, MMPOSE, MMPOSE_1], ids=["original", "0", "1"])
def test_hrnet_with_another_width_and_number_of_joints(prefixes):
    from ppose.convert.reference.hrnet import HRNet
    from ppose.convert.reference.layers import MMPose

    network = (
        HRNet(18, joints=16)
        if prefixes == ORIGINAL
        else MMPose(HRNet(18), 18, 16, prefixes.head.split(".")[0])
    )
    arrays = random_state(network)
    made = convert(arrays)
    assert isinstance(made.source, HRNetSource)
    assert made.source.prefixes == prefixes
    assert made.target.config is None
    assert largest_difference(made, arrays) < 1e-5


@pytest.mark.parametrize("kind", VARIANTS)
def test_all_lite_hrnets(kind):
    from ppose.convert.reference.layers import MMPose
    from ppose.convert.reference.lite_hrnet import LiteHRNet

    backbone = LiteHRNet(*VARIANTS[kind])
    arrays = random_state(MMPose(backbone, VARIANTS[kind].width, 17, "keypoint_head"))
    made = convert(arrays)
    assert isinstance(made.source, LiteHRNetSource)
    assert f"'{kind}'" in made.target.title
    assert largest_difference(made, arrays) < 1e-5


@pytest.mark.parametrize(("stacks", "width", "increase"), [(1, 16, 0), (3, 32, 8)])
def test_imhn_of_another_size(stacks, width, increase):
    from ppose.convert.reference.imhn import IMHN

    arrays = random_state(IMHN(stacks, width, increase, 50))
    made = convert(arrays)
    assert made.source.name == "simplepose"
    assert made.target.title.startswith(f"IMHN of {stacks} stacks, width {width} + {increase}")
    assert largest_difference(made, arrays) < 1e-5
    # The coarsest maps of the last stack are used only in training, but are compared too.
    head = f"posenet.outs.{stacks - 1}.4.conv.bias"
    arrays[head] = arrays[head] + 1
    assert largest_difference(made, arrays) > 1e-2


@pytest.mark.parametrize("index", [0, 300, 700, -2])
def test_one_wrong_tensor_is_detected(lite, index):
    made = convert(lite)
    assert largest_difference(made, lite) < 1e-5
    name = list(lite)[index]
    lite[name] = lite[name] + 0.5
    assert largest_difference(made, lite) > 1e-3


def test_bfloat16(lite):
    bits = {name: (array.view("u4") >> 16).astype("u2") for name, array in lite.items()}
    assert largest_difference(convert(bits), bits) < 1e-5


def test_nan_in_one_output_is_detected():
    from ppose.convert.reference.imhn import IMHN

    arrays = random_state(IMHN(1, 16, 0, 50))
    made = convert(arrays)
    bias = made.target.network.state_dict()["stacks.0.heads.4.bias"]
    bias.set_value(np.full(bias.shape, np.nan, "f4"))
    assert np.isnan(largest_difference(made, arrays))
