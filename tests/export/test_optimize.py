"""Optimized programs give what they gave before, from fewer operators."""

from collections import Counter

import numpy as np
import paddle
import pytest
from branchy import SIZE_WH, branchy, error, outputs, pictures, quantized
from golden.weights_by_name import fill
from paddle import nn
from paddle.nn import functional as F

from ppose.codecs.parts import SIMPLEPOSE
from ppose.deploy.bundle import PROGRAM, WEIGHTS
from ppose.deploy.session import open_session
from ppose.export.fold import fold_norms
from ppose.export.int8graph import to_int8
from ppose.export.onnx import write_onnx
from ppose.export.optimize import fold_scales, optimized, split_convolutions
from ppose.export.pdmodel import trace
from ppose.export.shuffles import keep_channels_in_place
from ppose.models import IMHN, HRNet, LiteHRNet, PoseNet
from ppose.models.layers import Backbone
from ppose.models.lite_hrnet import VARIANTS, interleave
from ppose.registry import registered
from ppose.skeleton import COCO17

MAKERS = {
    "HRNet": lambda: HRNet(4, (1, 1, 1), blocks=1, stem_width=8, stage1_width=4, stage1_blocks=1),
    "lite_18": lambda: LiteHRNet("lite_18"),
    "naive": lambda: LiteHRNet("naive"),
    "IMHN": lambda: IMHN(SIMPLEPOSE, stacks=2, width=16, increase=2),
    "branchy": branchy,
}
# What a shuffle block copies with.
COPIES = {"split", "concat", "unsqueeze2", "flatten_contiguous_range"}


def traced(network, size_wh=(64, 64), batch=-1):
    fill(network)
    network.eval()
    fold_norms(network, size_wh)
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
        (op.kind, str(op.inputs), str(op.outputs), str(op.settings)) for op in program.operators
    ]
    tensors = {name: array.tobytes() for name, array in program.tensors.items()}
    return operators, tensors, dict(program.shapes)


def kinds(program):
    return Counter(op.kind for op in program.operators)


def test_all_backbones_are_optimized_here():
    assert set(registered(Backbone)) == {"HRNet", "LiteHRNet"}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_the_output_stays(name, dense, tmp_path):
    made = MAKERS[name]()
    program = traced(PoseNet(made, COCO17) if isinstance(made, Backbone) else made)
    before = contents(program)
    changed = optimized(program, dense=dense)
    assert contents(program) == before
    images = pictures(2, (64, 64))
    backend = "paddle" if dense else "onnxruntime"
    found, expected = (run(p, tmp_path, backend, images) for p in (changed, program))
    assert error(found, expected) < 1e-5


@pytest.mark.parametrize("name", ["lite_18", "naive"])
def test_lite_hrnet_copies_in_its_stem_only(name):
    network = LiteHRNet(name)
    program = traced(network)
    weighting = VARIANTS[name].weighting
    blocks = sum(2 * m * b for m, b in zip(VARIANTS[name].modules, (2, 3, 4), strict=True))
    assert keep_channels_in_place(program.copied(), dense=True) == blocks
    assert keep_channels_in_place(program.copied(), dense=False) == (blocks if weighting else 0)
    left = kinds(optimized(program, dense=True))
    # Weighting concatenates what all resolutions show.
    weighted = blocks // 3 if not weighting else 2 * sum(VARIANTS[name].modules)
    assert sum(left[kind] for kind in COPIES) == 4 + (weighted if weighting else 0)
    assert left["scale"] == (sum(VARIANTS[name].modules) if weighting else 0)


class Shuffled(nn.Layer):
    """Two blocks of which `end` makes something."""

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


# Blocks that can be rewritten, and what comes behind.
ENDS = {
    "read by a convolution": (2, lambda net, x, y, z: net.last(z)),
    "read on the way": (
        *(2, lambda net, x, y, z: net.last(z) + net.last(y) + net.last(F.max_pool2d(x, 3, 1, 1))),
    ),
    "concatenated": (2, lambda net, x, y, z: net.wide(paddle.concat([z, F.sigmoid(y)], 1))),
    "split again": (0, lambda net, x, y, z: net.last(paddle.concat([y, z], 1).split(2, 1)[0])),
    "added to what is in another order": (0, lambda net, x, y, z: net.last(x + y + z)),
    "the result itself": (0, lambda net, x, y, z: z),
    "without channels": (0, lambda net, x, y, z: z.flatten(2) + x.flatten(2)),
}


@pytest.mark.parametrize("end", ENDS)
def test_blocks_in_their_surroundings(end, tmp_path):
    count, function = ENDS[end]
    program = traced(Shuffled(function), (16, 16))
    changed = program.copied()
    assert keep_channels_in_place(changed, dense=True) == count
    images = pictures(2, (16, 16))
    for backend in ("paddle", "onnxruntime"):
        found, expected = (run(p, tmp_path, backend, images) for p in (changed, program))
        assert error(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"kernel": 3}, 2),
        ({"middle": lambda x: F.leaky_relu(x, 0.3)}, 2),
        ({"middle": F.sigmoid}, 1),  # it would not leave the others as they are
    ],
)
def test_what_a_block_may_be_made_of(settings, blocks, tmp_path):
    network = Shuffled(lambda net, x, y, z: net.last(z), **settings)
    program = traced(network, (16, 16))
    changed = program.copied()
    assert keep_channels_in_place(changed, dense=True) <= blocks
    images = pictures(2, (16, 16))
    found, expected = (run(p, tmp_path, "onnxruntime", images) for p in (changed, program))
    assert error(found, expected) < 1e-5


def test_relu_needs_others_that_are_not_negative():
    class Signed(Shuffled):
        def forward(self, images):
            kept, changed = self.first(images).chunk(2, axis=1)
            return self.last(interleave(kept, self.middle(self.inner(changed))))

    program = traced(Signed(None), (16, 16))
    assert keep_channels_in_place(program, dense=True) == 0
    program = traced(Signed(None, middle=lambda x: x), (16, 16))
    assert keep_channels_in_place(program, dense=True) == 1


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
def test_factors_go_into_convolutions(count, function, tmp_path):
    # The result of a program keeps its name.
    program = traced(Steps(lambda *args: F.max_pool2d(function(*args), 2)), (16, 16))
    changed = program.copied()
    assert fold_scales(changed) == count
    assert kinds(changed)["scale"] == kinds(program)["scale"] - count
    images = pictures(2, (16, 16))
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
def test_splits_go_into_convolutions(count, function, tmp_path):
    program = traced(Steps(lambda *args: sum(y.mean(1) for y in function(*args))), (16, 16))
    changed = program.copied()
    assert split_convolutions(changed) == count
    assert kinds(changed)["split"] == 1 - count
    images = pictures(2, (16, 16))
    found, expected = (run(p, tmp_path, "onnxruntime", images) for p in (changed, program))
    assert error(found, expected) < 1e-5


def test_quantized_programs_stay():
    network = quantized(branchy())
    fold_norms(network, SIZE_WH)
    program = trace(network, (-1, 3, *SIZE_WH[::-1]))
    assert contents(optimized(program, dense=True)) == contents(program)
    to_int8(program)
    assert contents(optimized(program, dense=True)) == contents(program)


def test_height_and_width_may_stay_open(tmp_path):
    network = Shuffled(lambda net, x, y, z: net.last(z))
    fill(network)
    program = trace(network.eval(), (-1, 3, -1, -1))
    changed = optimized(program, dense=True)
    assert not COPIES & set(kinds(changed))
    for size_wh in ((16, 24), (32, 16)):
        images = pictures(1, size_wh)
        assert error(run(changed, tmp_path, "paddle", images), outputs(network, images)) < 1e-5


def test_weights_are_shared_with_the_copy():
    program = traced(branchy(), SIZE_WH)
    changed = program.copied()
    for name, array in changed.tensors.items():
        assert np.shares_memory(array, program.tensors[name])
    changed.tensors.clear()
    changed.operators[0].inputs.clear()
    assert program.tensors
    assert program.operators[0].inputs
