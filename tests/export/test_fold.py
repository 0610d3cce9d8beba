"""Batch norm folding and export to Paddle's old format keep the output of the network."""

import copy

import numpy as np
import paddle
import pytest
from conftest import ROOT
from golden.weights_by_name import fill
from paddle import nn
from paddle.nn import functional as F
from plain_export import export_network
from tiny_branching_network import (
    SIZE_WH,
    VNNI,
    BranchingNetwork,
    branching_network,
    error,
    outputs,
    quantized,
    random_images,
)

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.compression.quantize import quantized_layers, set_scale
from ppose.config import registered
from ppose.deploy.backends.open import open_session
from ppose.experiment import Experiment
from ppose.export.fold import fold_batch_norms
from ppose.export.pdmodel import TraceError, trace
from ppose.models import IMHN, HRNet, LiteHRNet, PoseNet
from ppose.models.layers import Backbone
from ppose.models.network import Network
from ppose.optim.batch_norm import BATCH_NORMS
from ppose.structures.skeleton import COCO17
from ppose.weights.loading import load_weights

SMALL = HRNet(4, (1, 1, 1), blocks=1, stem_width=8, stage1_width=4, stage1_blocks=1)
NETWORKS = {
    "HRNet": lambda: copy.deepcopy(SMALL),
    "lite_18": lambda: LiteHRNet("lite_18"),
    "wider_naive": lambda: LiteHRNet("wider_naive"),
    "IMHN": lambda: IMHN(SIMPLEPOSE, stacks=2, width=16, increase=2),
}


def norms(network):
    return [layer for layer in network.sublayers() if isinstance(layer, BATCH_NORMS)]


def state(network):
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def test_all_backbones_are_covered():
    assert set(registered(Backbone)) == {"HRNet", "LiteHRNet"}


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_the_output(name):
    network = NETWORKS[name]()
    fill(network)
    network.eval()
    images = random_images(2, (64, 64))
    before, count = outputs(network, images), len(norms(network))
    folded = fold_batch_norms(network, (64, 64))
    assert len(norms(network)) == count - folded
    # In eval mode an IMHN does not run all of its layers.
    assert folded == count or name == "IMHN"
    assert not norms(network.sublayers()[0]) or name != "IMHN"
    assert error(outputs(network, images), before) < 1e-5


class SharedValues(nn.Layer):
    """Convolutions whose outputs or weights are used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2D(3, 4, 1), nn.BatchNorm2D(4)
        self.shared, self.one, self.two = nn.Conv2D(4, 4, 1), nn.BatchNorm2D(4), nn.BatchNorm2D(4)
        self.bare = nn.BatchNorm2D(4)

    def forward(self, x):
        x = self.conv(x)
        x = self.norm(x) + x
        x = self.one(self.shared(x)) + self.two(self.shared(x))
        return self.bare(x)


def test_shared_outputs_and_weights_are_not_folded():
    network = SharedValues()
    fill(network)
    network.eval()
    before = state(network)
    assert fold_batch_norms(network, None) == 0
    for name, array in state(network).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_network_in_training_mode_is_rejected():
    with pytest.raises(ValueError, match="eval mode only"):
        fold_batch_norms(BranchingNetwork(), None)


def test_a_convolution_with_bias_is_folded():
    network = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Conv2D(4, 2, 1))
    fill(network)
    network.eval()
    expected = outputs(network, random_images(1))
    assert fold_batch_norms(network, None) == 1
    assert error(outputs(network, random_images(1)), expected) < 1e-5


def test_folding_keeps_the_integers_of_quantized_layers():
    network = quantized(branching_network())
    integers = _integers(network)
    fold_batch_norms(network, SIZE_WH)
    assert not norms(network)
    for name, array in _integers(network).items():
        # The factor of a batch norm can flip the sign of a channel, or round a tie differently.
        assert (np.abs(np.abs(array) - np.abs(integers[name])) > 0).mean() < 1e-3


def _integers(network):
    found = {}
    for name, layer in quantized_layers(network).items():
        weight = layer.weight.numpy()
        if weight.ndim == 4:
            largest = np.abs(weight).max((1, 2, 3), keepdims=True)
            found[name] = np.rint(weight / largest * 127)
    return found


def test_per_tensor_scales_keep_their_norms():
    network = quantized(branching_network(), weight_scale="tensor")
    before, expected = len(norms(network)), outputs(network, random_images())
    assert fold_batch_norms(network, SIZE_WH) == 0
    assert len(norms(network)) == before
    np.testing.assert_array_equal(outputs(network, random_images()), expected)


@pytest.mark.parametrize("name", ["branching", "HRNet", "wider_naive", "IMHN"])
def test_float_export_matches_the_network(name, tmp_path):
    network = branching_network() if name == "branching" else _pose_net(name)
    size_wh = SIZE_WH if name == "branching" else (64, 64)
    export_network(network, tmp_path, size_wh)
    for count in (1, 3):
        images = random_images(count, size_wh)
        assert error(exported(tmp_path, images), outputs(network, images)) < 1e-4


def exported(folder, images, precision="fp32"):
    """Output of an exported network."""
    session = open_session(folder, backend="paddle", precision=precision)
    return session.run(images)[0]


def _pose_net(name):
    made = NETWORKS[name]()
    network = made if isinstance(made, Network) else PoseNet(made, COCO17)
    fill(network)
    return network.eval()


@pytest.mark.parametrize("weight_scale", ["channel", "tensor"])
@pytest.mark.parametrize("exclude", [[], ["stem", "outer"]])
def test_int8_export_matches_the_quantized_network(weight_scale, exclude, tmp_path):
    network = quantized(branching_network(), weight_scale=weight_scale, exclude=exclude)
    # This convolution clips an input that another one reads unclipped.
    clipped = network.other.conv
    set_scale(clipped, 0.6 * clipped._fake_quant_input._scale.item())
    made = export_network(network, tmp_path, SIZE_WH)
    convolutions = [x for x in quantized_layers(network).values() if x.weight.ndim == 4]
    assert made.int8 == len(convolutions) + 1  # `last` runs twice
    expected = outputs(network, random_images())
    found = exported(tmp_path, random_images(), "int8")
    assert error(found, expected) < (0.02 if VNNI else 0.05)
    # Almost all values are equal up to rounding. oneDNN does not support per-tensor scales of
    # weights: it quantizes such weights again.
    limit = 0.0006 if weight_scale == "channel" and VNNI else 0.008
    assert np.abs(found - expected).mean() < limit * np.ptp(expected)
    reference = exported(tmp_path, random_images())
    assert np.abs(reference - expected).mean() < 0.0006 * np.ptp(expected)


@pytest.mark.skipif(not VNNI, reason="7-bit weights without VNNI are too coarse for deep networks")
def test_int8_of_trained_networks(tmp_path):
    for config in ("quickstart", "imhn_quickstart"):
        network = Experiment.from_file(ROOT / "configs" / f"{config}.yml").model
        load_weights(network, ROOT / "configs" / "weights" / f"{config}.safetensors")
        quantized(network.eval(), (128, 128))
        export_network(network, tmp_path, (128, 128))
        images = random_images(2, (128, 128))
        found = exported(tmp_path, images, "int8")
        assert error(found, outputs(network, images)) < 0.02, config


def test_int8_with_dead_channels(tmp_path):
    network = branching_network()
    for norm in norms(network):
        alive = np.arange(norm.weight.size) % 3 > 0
        norm.weight.set_value(norm.weight.numpy() * alive)
    quantized(network)
    export_network(network, tmp_path, SIZE_WH)
    expected = outputs(network, random_images())
    assert error(exported(tmp_path, random_images(), "int8"), expected) < (0.01 if VNNI else 0.05)


def test_int8_is_small(tmp_path):
    network = Experiment.from_file(ROOT / "configs" / "quickstart.yml").model.eval()
    full = export_network(network, tmp_path / "float", (96, 128))
    small = export_network(quantized(network, (96, 128)), tmp_path / "int8", (96, 128))
    for made in (full, small):
        names = ("model.pdmodel", "model.pdiparams")
        assert made.size == sum((made.folder / name).stat().st_size for name in names)
    assert small.size < 0.3 * full.size


def test_dynamic_height_and_width(tmp_path):
    network = _pose_net("IMHN")
    export_network(network, tmp_path, None)
    for size_wh in ((64, 64), (128, 64)):
        images = random_images(1, size_wh)
        assert error(exported(tmp_path, images), outputs(network, images)) < 1e-4


def test_a_fixed_batch(tmp_path):
    export_network(branching_network(), tmp_path, SIZE_WH, batch=2)
    assert open_session(tmp_path, backend="paddle").inputs[0].shape == (2, 3, 64, 48)
    with pytest.raises(ValueError, match=r"images float32 \(2, 3, 64, 48\), found"):
        exported(tmp_path, random_images(3))


def test_the_network_is_not_modified_and_nothing_is_printed(tmp_path, capfd):
    network = quantized(branching_network())
    network.train()
    before = state(network)
    export_network(network, tmp_path, SIZE_WH)
    assert capfd.readouterr() == ("", "")
    assert network.training
    assert paddle.in_dynamic_mode()
    after = state(network)
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])
    assert all(not p.stop_gradient for n, p in network.named_parameters() if n.endswith("weight"))


def test_a_second_export_replaces_the_first(tmp_path):
    (tmp_path / "notes.txt").write_text("kept")
    export_network(quantized(branching_network()), tmp_path, SIZE_WH)
    network = branching_network()
    network.last.weight.set_value(2 * network.last.weight)
    export_network(network, tmp_path, SIZE_WH)
    assert error(exported(tmp_path, random_images()), outputs(network, random_images())) < 1e-4
    names = ["model.pdiparams", "model.pdmodel", "notes.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_files_contain_no_paths(tmp_path):
    export_network(branching_network(), tmp_path, SIZE_WH)
    for path in tmp_path.iterdir():
        assert b".py" not in path.read_bytes()
        assert str(ROOT).encode() not in path.read_bytes()


def test_a_failed_export_leaves_no_files(tmp_path):
    class Unsupported(BranchingNetwork):
        def forward(self, images):
            return F.tanh(super().forward(images))

    with pytest.raises(TraceError, match="cannot trace one of its operators.*tanh"):
        export_network(Unsupported(), tmp_path / "made", SIZE_WH)
    assert not (tmp_path / "made").exists()
    assert paddle.in_dynamic_mode()
    assert F.sigmoid(paddle.zeros([1])).item() == 0.5


def test_a_list_of_outputs_is_rejected():
    class ListOutput(nn.Layer):
        def forward(self, images):
            return [images, images]

    with pytest.raises(TraceError, match="returns a list, expected one tensor"):
        trace(ListOutput(), (1, 3, 8, 8))


def test_an_unsupported_input_size_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="multiples of 32"):
        export_network(PoseNet(copy.deepcopy(SMALL), COCO17), tmp_path / "made", (100, 96))


def test_a_file_in_place_of_the_output_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        export_network(branching_network(), tmp_path / "taken", SIZE_WH)
