"""Graph optimizations keep the output and remove operators."""

from collections import Counter

import numpy as np
import paddle
import pytest
from golden.weights_by_name import fill
from paddle import nn
from paddle.nn import functional as F
from tiny_branching_network import (
    SIZE_WH,
    branching_network,
    error,
    outputs,
    quantized,
    random_images,
)

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.config import registered
from ppose.deploy.backends.open import open_session
from ppose.deploy.bundle import PROGRAM, WEIGHTS
from ppose.export.fold import fold_batch_norms
from ppose.export.int8_program import to_int8
from ppose.export.onnx import write_onnx
from ppose.export.optimize import fold_scales, optimize, split_convolutions
from ppose.export.pdmodel import trace
from ppose.export.shuffles import remove_shuffle_copies
from ppose.models import IMHN, HRNet, LiteHRNet, PoseNet
from ppose.models.layers import Backbone
from ppose.models.lite_hrnet import VARIANTS, interleave
from ppose.structures.skeleton import COCO17

NETWORKS = {
    "HRNet": lambda: HRNet(4, (1, 1, 1), blocks=1, stem_width=8, stage1_width=4, stage1_blocks=1),
    "lite_18": lambda: LiteHRNet("lite_18"),
    "naive": lambda: LiteHRNet("naive"),
    "IMHN": lambda: IMHN(SIMPLEPOSE, stacks=2, width=16, increase=2),
    "branching": branching_network,
}
# Operators with which a shuffle block copies.
COPIES = {"split", "concat", "unsqueeze2", "flatten_contiguous_range"}


def traced(network, size_wh=(64, 64), batch=-1):
    fill(network)
    network.eval()
    fold_batch_norms(network, size_wh)
    return trace(network, (batch, 3, *size_wh[::-1]))


def run(program, folder, backend, images):
    if backend == "paddle":
        program.save(folder / PROGRAM, folder / WEIGHTS)
    else:
        write_onnx(program, folder / "model.onnx")
    (found,) = open_session(folder, backend=backend, threads=1).run(images)
    return found


def contents(program):
    operators = [
        (op.type, str(op.inputs), str(op.outputs), str(op.attributes)) for op in program.operators
    ]
    tensors = {name: array.tobytes() for name, array in program.tensors.items()}
    return operators, tensors, dict(program.shapes)


def kinds(program):
    return Counter(op.type for op in program.operators)


def test_all_backbones_are_covered():
    assert set(registered(Backbone)) == {"HRNet", "LiteHRNet"}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_optimization_keeps_the_output(name, dense, tmp_path):
    made = NETWORKS[name]()
    program = traced(PoseNet(made, COCO17) if isinstance(made, Backbone) else made)
    before = contents(program)
    changed = optimize(program, dense=dense)
    assert contents(program) == before
    images = random_images(2, (64, 64))
    backend = "paddle" if dense else "onnxruntime"
    found, expected = (run(p, tmp_path, backend, images) for p in (changed, program))
    assert error(found, expected) < 1e-5


@pytest.mark.parametrize("name", ["lite_18", "naive"])
def test_lite_hrnet_copies_only_in_its_stem(name):
    network = LiteHRNet(name)
    program = traced(network)
    weighting = VARIANTS[name].weighting
    blocks = sum(2 * m * b for m, b in zip(VARIANTS[name].modules, (2, 3, 4), strict=True))
    assert remove_shuffle_copies(program.copy(), dense=True) == blocks
    assert remove_shuffle_copies(program.copy(), dense=False) == (blocks if weighting else 0)
    left = kinds(optimize(program, dense=True))
    # The weighting concatenates features of all resolutions.
    weighted = blocks // 3 if not weighting else 2 * sum(VARIANTS[name].modules)
    assert sum(left[kind] for kind in COPIES) == 4 + (weighted if weighting else 0)
    assert left["scale"] == (sum(VARIANTS[name].modules) if weighting else 0)


class Shuffled(nn.Layer):
    """Two shuffle blocks, followed by the function `end`."""

    def __init__(self, end, middle=F.relu, kernel=1):
        super().__init__()
        self.first = nn.Conv2D(3, 8, 3, padding=1)
        self.inner = nn.Conv2D(4, 4, kernel, padding=kernel // 2)
        self.depthwise = nn.Conv2D(4, 4, 3, padding=1, groups=4)
        self.last, self.wide = nn.Conv2D(8, 3, 1), nn.Conv2D(16, 8, 1)
        self.end, self.middle = end, middle

    def forward(self, images):
        x = F.relu(self.first(images))
        kept, changed = x.chunk(2, axis=1)
        y = interleave(kept, self.middle(self.inner(changed)))
        kept, changed = y.chunk(2, axis=1)
        z = interleave(self.depthwise(changed), kept)
        return self.end(self, x, y, z)


# Number of blocks that can be rewritten, and the operators after them.
ENDS = {
    "convolution": (2, lambda net, x, y, z: net.last(z)),
    "intermediate values used too": (
        *(2, lambda net, x, y, z: net.last(z) + net.last(y) + net.last(F.max_pool2d(x, 3, 1, 1))),
    ),
    "concatenated": (2, lambda net, x, y, z: net.wide(paddle.concat([z, F.sigmoid(y)], 1))),
    "split": (0, lambda net, x, y, z: net.last(paddle.concat([y, z], 1).split(2, 1)[0])),
    "sum of values in different orders": (0, lambda net, x, y, z: net.last(x + y + z)),
    "output of the network": (0, lambda net, x, y, z: z),
    "flattened": (0, lambda net, x, y, z: z.flatten(2) + x.flatten(2)),
}


@pytest.mark.parametrize("end", ENDS)
def test_operators_after_a_block(end, tmp_path):
    count, function = ENDS[end]
    program = traced(Shuffled(function), (16, 16))
    changed = program.copy()
    assert remove_shuffle_copies(changed, dense=True) == count
    images = random_images(2, (16, 16))
    for backend in ("paddle", "onnxruntime"):
        found, expected = (run(p, tmp_path, backend, images) for p in (changed, program))
        assert error(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"kernel": 3}, 2),
        ({"middle": lambda x: F.leaky_relu(x, 0.3)}, 2),
        ({"middle": F.sigmoid}, 1),  # it would change the channels that pass through
    ],
)
def test_operators_inside_a_block(settings, blocks, tmp_path):
    network = Shuffled(lambda net, x, y, z: net.last(z), **settings)
    program = traced(network, (16, 16))
    changed = program.copy()
    assert remove_shuffle_copies(changed, dense=True) <= blocks
    images = random_images(2, (16, 16))
    found, expected = (run(p, tmp_path, "onnxruntime", images) for p in (changed, program))
    assert error(found, expected) < 1e-5


def test_relu_requires_non_negative_channels_that_pass_through():
    class Signed(Shuffled):
        def forward(self, images):
            kept, changed = self.first(images).chunk(2, axis=1)
            return self.last(interleave(kept, self.middle(self.inner(changed))))

    program = traced(Signed(None), (16, 16))
    assert remove_shuffle_copies(program, dense=True) == 0
    program = traced(Signed(None, middle=lambda x: x), (16, 16))
    assert remove_shuffle_copies(program, dense=True) == 1


class Steps(nn.Layer):
    def __init__(self, function):
        super().__init__()
        self.conv, self.depthwise = nn.Conv2D(3, 6, 1), nn.Conv2D(6, 6, 3, padding=1, groups=6)
        self.function = function

    def forward(self, images):
        return self.function(self.conv, self.depthwise, images)


@pytest.mark.parametrize(
    ("count", "function"),
    [
        (1, lambda conv, depthwise, x: 2 * conv(x)),
        (1, lambda conv, depthwise, x: 1 - F.relu(depthwise(conv(x))) * 0.3),
        (0, lambda conv, depthwise, x: -2 * F.relu(conv(x))),
        (0, lambda conv, depthwise, x: 2 * F.sigmoid(conv(x))),
        (0, lambda conv, depthwise, x: conv(x) + 0.5),
        (0, lambda conv, depthwise, x: (lambda y: 2 * y + F.relu(y))(conv(x))),
    ],
)
def test_scales_are_folded_into_convolutions(count, function, tmp_path):
    # The max pooling at the end: outputs of a program keep their names.
    program = traced(Steps(lambda *args: F.max_pool2d(function(*args), 2)), (16, 16))
    changed = program.copy()
    assert fold_scales(changed) == count
    assert kinds(changed)["scale"] == kinds(program)["scale"] - count
    images = random_images(2, (16, 16))
    found, expected = (run(p, tmp_path, "onnxruntime", images) for p in (changed, program))
    assert error(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("count", "function"),
    [
        (1, lambda conv, depthwise, x: F.sigmoid(conv(x)).split([1, 2, 3], 1)),
        (1, lambda conv, depthwise, x: conv(x).split(2, 1)),
        (0, lambda conv, depthwise, x: depthwise(conv(x)).split(2, 1)),
        (0, lambda conv, depthwise, x: (lambda y: [*y.split(2, 1), y])(conv(x))),
        (0, lambda conv, depthwise, x: conv(x).split(2, 2)),
    ],
)
def test_convolutions_are_split(count, function, tmp_path):
    program = traced(Steps(lambda *args: sum(y.mean(1) for y in function(*args))), (16, 16))
    changed = program.copy()
    assert split_convolutions(changed) == count
    assert kinds(changed)["split"] == 1 - count
    images = random_images(2, (16, 16))
    found, expected = (run(p, tmp_path, "onnxruntime", images) for p in (changed, program))
    assert error(found, expected) < 1e-5


def test_quantized_programs_are_not_changed():
    network = quantized(branching_network())
    fold_batch_norms(network, SIZE_WH)
    program = trace(network, (-1, 3, *SIZE_WH[::-1]))
    assert contents(optimize(program, dense=True)) == contents(program)
    to_int8(program)
    assert contents(optimize(program, dense=True)) == contents(program)


def test_dynamic_height_and_width(tmp_path):
    network = Shuffled(lambda net, x, y, z: net.last(z))
    fill(network)
    program = trace(network.eval(), (-1, 3, -1, -1))
    changed = optimize(program, dense=True)
    assert not COPIES & set(kinds(changed))
    for size_wh in ((16, 24), (32, 16)):
        images = random_images(1, size_wh)
        assert error(run(changed, tmp_path, "paddle", images), outputs(network, images)) < 1e-5


def test_weights_are_shared_with_the_copy():
    program = traced(branching_network(), SIZE_WH)
    changed = program.copy()
    for name, array in changed.tensors.items():
        assert np.shares_memory(array, program.tensors[name])
    changed.tensors.clear()
    changed.operators[0].inputs.clear()
    assert program.tensors
    assert program.operators[0].inputs
