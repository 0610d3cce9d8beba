"""The published networks at full size: parameter names, shapes, outputs and gradients."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from golden.weights_by_name import fill

from ppose.config import ConfigError, build
from ppose.models import HRNet, LiteHRNet, PoseNet
from ppose.structures.skeleton import COCO17, Joint, Skeleton

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = {
    "hrnet_w32": {"type": "HRNet"},
    "hrnet_w48": {"type": "HRNet", "width": 48},
    "lite_hrnet_18": {"type": "LiteHRNet", "network": "lite_18"},
    "lite_hrnet_30": {"type": "LiteHRNet", "network": "lite_30"},
    "naive": {"type": "LiteHRNet", "network": "naive"},
    "wider_naive": {"type": "LiteHRNet", "network": "wider_naive"},
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    """A network, and the names, shapes and output of the reference with `weights_by_name`."""
    return make(request.param), np.load(GOLDEN / f"{request.param}.npz")


def make(name: str) -> PoseNet:
    node = {"type": "PoseNet", "backbone": PUBLISHED[name], "skeleton": "coco17"}
    return build(node, PoseNet, "model")


def test_parameter_names_and_shapes_match_the_public_checkpoint(published):
    network, golden = published
    expected = dict(zip(golden["names"].tolist(), map(json.loads, golden["shapes"]), strict=True))
    assert {name: tensor.shape for name, tensor in network.state_dict().items()} == expected


def test_output_matches_the_reference(published):
    network, golden = published
    fill(network)
    network.eval()
    images = np.random.default_rng(0).uniform(-2, 2, (1, 3, 256, 192)).astype(np.float32)
    with paddle.no_grad():
        maps = network(paddle.to_tensor(images)).numpy()
    expected = golden["output"]
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_parameter_gets_a_gradient(name):
    paddle.seed(0)
    network = make(name)
    network(paddle.randn([2, 3, 64, 64])).square().mean().backward()
    trained = {n: p.grad for n, p in network.named_parameters() if not p.stop_gradient}
    assert [n for n, grad in trained.items() if grad is None] == []
    gradients = {n: grad.numpy() for n, grad in trained.items()}
    assert [n for n, grad in gradients.items() if not np.isfinite(grad).all()] == []
    assert [n for n, grad in gradients.items() if not grad.any()] == []


def test_there_is_one_map_per_joint():
    skeleton = Skeleton("hand", [Joint("wrist", 0.05), Joint("thumb", 0.05)], limbs=[])
    network = PoseNet(LiteHRNet("naive"), skeleton)
    assert network(paddle.zeros([1, 3, 96, 128])).shape == [1, 2, 24, 32]


def test_initialization_is_as_published():
    network = PoseNet(HRNet(), COCO17)
    weights = [m.weight.numpy() for m in network.sublayers() if isinstance(m, paddle.nn.Conv2D)]
    flat = np.concatenate([w.ravel() for w in weights])
    assert abs(flat.mean()) < 1e-5
    assert flat.std() == pytest.approx(0.001, rel=0.01)
    assert not network.final_conv.bias.numpy().any()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            {"type": "LiteHRNet", "network": "lite_19"},
            "model.backbone.network: expected one of 'lite_18', 'lite_30', 'naive', 'wider_naive'",
        ),
        ({"type": "LiteHRNet"}, "model.backbone: LiteHRNet needs 'network'"),
        (
            {"type": "HRNet", "blocks": 0},
            "model.backbone.blocks: expected int in 1..32, found int 0",
        ),
        ({"type": "HRNet", "modules": [1, 4]}, "model.backbone.modules: expected 3 values"),
    ],
)
def test_invalid_backbones_are_rejected(backbone, message):
    node = {"type": "PoseNet", "backbone": backbone, "skeleton": "coco17"}
    with pytest.raises(ConfigError, match=message):
        build(node, PoseNet, "model")
