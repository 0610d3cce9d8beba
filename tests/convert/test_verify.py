"""The PyTorch networks are the published ones, and --verify sees what is wrong."""

from itertools import product

import numpy as np
import pytest

from ppose.convert.conversion import convert
from ppose.convert.topdown import MMPOSE, MMPOSE_1, ORIGINAL, HRNetSource, LiteHRNetSource
from ppose.convert.verify import largest_difference
from ppose.models.lite_hrnet import VARIANTS

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "name", ["mmpose_hrnet_w32", "mmpose_lite_hrnet_18", "mmpose_lite_hrnet_30"]
)
def test_the_pytorch_networks_compute_the_published_outputs(name, checkpoint):
    arrays, golden = checkpoint(name)
    network = convert(arrays).variant.reference().eval()
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    images = np.random.default_rng(0).uniform(-2, 2, (1, 3, 256, 192)).astype(np.float32)
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).numpy()
    expected = golden["output"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_pytorch_imhn_computes_all_published_outputs(checkpoint):
    arrays, golden = checkpoint("simplepose_imhn")
    network = convert(arrays).variant.reference().eval()
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    images = np.random.default_rng(0).uniform(0, 1, (1, 128, 128, 3)).astype(np.float32)
    with torch.inference_mode():
        found = network(torch.from_numpy(images))
    places = product(range(4), range(5))
    for (stack, scale), maps in zip(places, found, strict=True):
        expected = golden[f"output_stack{stack}_scale{scale}"]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def random_state(network):
    """Weights that let a signal through, also by the paths that start near zero."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim > 1:
            tensor.normal_(std=tensor[0].numel() ** -0.5)
        elif tensor.ndim == 1:
            tensor.normal_(mean=0.1, std=0.5)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("layout", [ORIGINAL, MMPOSE, MMPOSE_1], ids=["original", "0", "1"])
def test_hrnet_of_another_width_and_joints(layout):
    from ppose.convert.torch_hrnet import HRNet
    from ppose.convert.torch_layers import MMPose

    network = (
        HRNet(18, joints=16)
        if layout == ORIGINAL
        else MMPose(HRNet(18), 18, 16, layout.head.split(".")[0])
    )
    arrays = random_state(network)
    made = convert(arrays)
    assert isinstance(made.source, HRNetSource)
    assert made.source.layout == layout
    assert made.variant.config is None
    assert largest_difference(made, arrays) < 1e-5


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_lite_hrnet(kind):
    from ppose.convert.torch_layers import MMPose
    from ppose.convert.torch_lite_hrnet import LiteHRNet

    backbone = LiteHRNet(*VARIANTS[kind])
    arrays = random_state(MMPose(backbone, VARIANTS[kind].width, 17, "keypoint_head"))
    made = convert(arrays)
    assert isinstance(made.source, LiteHRNetSource)
    assert f"'{kind}'" in made.variant.title
    assert largest_difference(made, arrays) < 1e-5


@pytest.mark.parametrize(("stacks", "width", "increase"), [(1, 16, 0), (3, 32, 8)])
def test_imhn_of_another_size(stacks, width, increase):
    from ppose.convert.torch_imhn import IMHN

    arrays = random_state(IMHN(stacks, width, increase, 50))
    made = convert(arrays)
    assert made.source.name == "simplepose"
    assert made.variant.title.startswith(f"IMHN of {stacks} stacks, width {width} + {increase}")
    assert largest_difference(made, arrays) < 1e-5
    # The coarsest maps of the last stack serve supervision only, and are compared too.
    head = f"posenet.outs.{stacks - 1}.4.conv.bias"
    arrays[head] = arrays[head] + 1
    assert largest_difference(made, arrays) > 1e-2


@pytest.mark.parametrize("place", [0, 300, 700, -2])
def test_one_other_tensor_is_seen(lite, place):
    made = convert(lite)
    assert largest_difference(made, lite) < 1e-5
    name = list(lite)[place]
    lite[name] = lite[name] + 0.5
    assert largest_difference(made, lite) > 1e-3


def test_bfloat16(lite):
    bits = {name: (array.view("u4") >> 16).astype("u2") for name, array in lite.items()}
    assert largest_difference(convert(bits), bits) < 1e-5


def test_a_nan_in_one_output_is_not_lost():
    from ppose.convert.torch_imhn import IMHN

    arrays = random_state(IMHN(1, 16, 0, 50))
    made = convert(arrays)
    bias = made.variant.network.state_dict()["stacks.0.heads.4.bias"]
    bias.set_value(np.full(bias.shape, np.nan, "f4"))
    assert np.isnan(largest_difference(made, arrays))
