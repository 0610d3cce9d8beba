"""IMHN matches the published network, and computes only the finest scale in eval mode."""

import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from golden.weights_by_name import fill, weight

from ppose.codecs.part_layout import SIMPLEPOSE, PartLayout
from ppose.convert.simplepose_names import FIRST_CONVOLUTION, targets
from ppose.models import IMHN
from ppose.structures.skeleton import COCO17

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "simplepose_imhn.npz")


@pytest.fixture(scope="module")
def published():
    """The network with 4 stacks, and weights from `weights_by_name` for the published names."""
    shapes = dict(zip(GOLDEN["names"].tolist(), map(json.loads, GOLDEN["shapes"]), strict=True))
    network = IMHN(SIMPLEPOSE)
    own = network.state_dict()
    arrays = {}
    for source, target in targets(shapes).items():
        values = weight(source, shapes[source])
        values = values[:, ::-1] if target == FIRST_CONVOLUTION else values
        arrays[target] = values.T if values.ndim == 2 else values
    assert arrays.keys() == own.keys()
    assert len(arrays) == len(shapes)
    for name, array in arrays.items():
        own[name].set_value(np.ascontiguousarray(array))
    network.eval()
    return network


def training_outputs(network, images):
    """The training outputs, with batch norms in eval mode."""
    network.training = True
    with paddle.no_grad():
        outputs = network(images)
    network.training = False
    return outputs


def golden_images():
    images = np.random.default_rng(0).uniform(0, 1, (1, 128, 128, 3)).astype(np.float32)
    return paddle.to_tensor(np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2)))


def test_all_outputs_match_the_published_network(published):
    outputs = training_outputs(published, golden_images())
    assert (len(outputs), len(outputs[0])) == (4, 5)
    for i, stack in enumerate(outputs):
        for j, maps in enumerate(stack):
            reference = GOLDEN[f"output_stack{i}_scale{j}"]
            error = np.abs(maps.numpy() - reference).max()
            assert error <= 1e-4 * np.abs(reference).max(), (i, j)


def test_eval_mode_outputs_the_finest_maps_of_the_last_stack(published):
    with paddle.no_grad():
        maps = published(golden_images()).numpy()
    reference = GOLDEN["output_stack3_scale0"]
    assert np.abs(maps - reference).max() <= 1e-4 * np.abs(reference).max()


def test_number_of_parameters(published):
    count = sum(p.size for p in published.parameters() if not p.stop_gradient)
    assert round(count / 1e6, 1) == 129.0


@pytest.fixture(params=[(1, 16, 0), (2, 32, 8)], ids=str)
def small(request):
    paddle.seed(0)
    stacks, width, increase = request.param
    network = IMHN(PartLayout(COCO17), stacks=stacks, width=width, increase=increase)
    fill(network)
    return network


def test_map_sizes(small):
    images = paddle.randn([2, 3, 64, 128])
    small.train()
    for stack in small(images):
        assert [tuple(maps.shape) for maps in stack] == [
            (2, small.channels, 16 >> s, 32 >> s) for s in range(5)
        ]
    small.eval()
    assert tuple(small(images).shape) == (2, small.channels, 16, 32)


def test_every_parameter_gets_a_gradient_in_training(small):
    small.train()
    outputs = small(paddle.randn([2, 3, 64, 64]))
    sum((maps * paddle.randn(maps.shape)).sum() for stack in outputs for maps in stack).backward()
    parameters = [(n, p) for n, p in small.named_parameters() if not p.stop_gradient]
    assert [n for n, p in parameters if p.grad is None or not p.grad.numpy().any()] == []


def test_eval_mode_skips_the_coarse_maps(small):
    called = []
    for name, layer in small.named_sublayers():
        layer.register_forward_post_hook(lambda *_, name=name: called.append(name))
    images = paddle.randn([1, 3, 64, 64])
    training_outputs(small, images)
    in_training, called[:] = set(called), []
    small.eval()
    small(images)
    assert len(called) == len(set(called))
    coarse = {name for name in in_training if re.search(r"\.(features|heads|maps)\.[1-4]", name)}
    assert coarse
    assert set(called) == in_training - coarse


def test_initialization_is_as_published():
    paddle.seed(0)
    network = IMHN(SIMPLEPOSE, stacks=1, width=64, increase=16)
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        if name.endswith("bias"):
            assert not values.any(), name
        elif values.ndim > 1:
            std = 0.001 if values.ndim == 4 else 0.01
            assert abs(values.std() / std - 1) < 5 / np.sqrt(2 * values.size), name


def test_names_similar_to_published_ones_are_not_mapped():
    known = "posenet.hourglass.0.hg.3.4.convBlock.0.weight"
    others = [
        known.removeprefix("posenet."),
        known.replace("hg.3", "hg.2"),
        known.replace("hg.3.4", "hg.3.5"),
        known.replace("Block.0", "Block.2"),
        known.replace("hourglass.0", "hourglass.00"),
        known.replace("weight", "num_batches_tracked"),
        known.replace("weight", "scale"),
        "posenet.features.0.before_regress.5.0.conv.weight",
    ]
    target = "stacks.0.hourglass.bottom.conv1.conv.weight"
    assert targets([*others, known]) == {known: target}


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_saved_network_matches(small, tmp_path, dynamic):
    small.eval()
    side = None if dynamic else 64
    spec = paddle.static.InputSpec([None, 3, side, side], "float32")
    images = paddle.randn([2, 3, 64, 128 if dynamic else 64])
    with paddle.no_grad():
        expected = small(images).numpy()
    path = str(tmp_path / "network")
    paddle.jit.save(paddle.jit.to_static(small, input_spec=[spec], full_graph=True), path)
    assert np.allclose(paddle.jit.load(path)(images).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [[1, 3, 64, 96], [1, 3, 32, 64], [3, 64, 64]])
def test_invalid_sizes_are_rejected(small, shape):
    with pytest.raises(ValueError, match="IMHN expects images .* multiples of 64"):
        small(paddle.zeros(shape))


@pytest.mark.parametrize(
    "wrong", [{"stacks": 0}, {"width": 8}, {"width": 40}, {"increase": -2}, {"increase": 3}]
)
def test_invalid_arguments_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IMHN(SIMPLEPOSE, **wrong)
