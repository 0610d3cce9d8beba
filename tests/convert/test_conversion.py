import numpy as np
import paddle
import pytest
from conftest import ROOT

from ppose.convert.conversion import convert, recognise
from ppose.experiment import Experiment
from ppose.weights.loading import load_weights, set_weights
from ppose.weights.weight_file import WeightsError, save_arrays

MMPOSE = ["mmpose_hrnet_w32", "mmpose_lite_hrnet_18", "mmpose_lite_hrnet_30"]
HEAD = "keypoint_head.final_layer.weight"


def output(network):
    images = np.random.default_rng(0).uniform(-2, 2, (1, 3, 256, 192)).astype(np.float32)
    network.eval()
    with paddle.no_grad():
        return network(paddle.to_tensor(images)).numpy()


@pytest.mark.parametrize("name", MMPOSE)
def test_a_converted_file_matches_pytorch(name, checkpoint, tmp_path):
    arrays, golden = checkpoint(name)
    made = convert(arrays)
    assert made.source.name == "mmpose"
    save_arrays(tmp_path / "a.pdparams", made.arrays)
    network = Experiment.from_file(ROOT / made.target.config).model
    load_weights(network, tmp_path / "a.pdparams")
    expected = golden["output"]
    np.testing.assert_allclose(output(network), expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_the_original_hrnet_names(checkpoint):
    arrays, _ = checkpoint("mmpose_hrnet_w32")
    short = {
        n.removeprefix("backbone.").removeprefix("keypoint_head."): a for n, a in arrays.items()
    }
    made = convert(short)
    assert made.source.name == "hrnet"
    expected = convert(arrays).arrays
    assert made.arrays.keys() == expected.keys()
    assert all(np.array_equal(made.arrays[n], expected[n]) for n in expected)


def test_the_width_is_detected(checkpoint):
    """HRNet-w48 has the same names as w32; its golden file has ppose's names."""
    names = convert(checkpoint("mmpose_hrnet_w32")[0]).target.names
    wide, golden = checkpoint("hrnet_w48")
    made = convert({names[name]: array for name, array in wide.items()})
    assert made.arrays.keys() == wide.keys()
    network = Experiment.from_file(ROOT / made.target.config).model
    set_weights(network, made.arrays)
    expected = golden["output"]
    np.testing.assert_allclose(output(network), expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_every_tensor_is_used_or_reported(lite):
    counts = {n.replace("running_var", "num_batches_tracked"): np.int64(7) for n in lite}
    full = lite | {n: c for n, c in counts.items() if n not in lite} | {"n_averaged": np.int64(3)}
    made = convert(full)
    used = {made.target.names[name] for name in made.arrays}
    assert used == set(lite)
    assert set(made.unused) == set(full) - used
    table = made.table().splitlines()
    assert sorted(line.split()[0] for line in table) == sorted(full)
    assert f"{len(lite)} tensors converted" in made.summary()
    assert "1 left out: n_averaged" in made.summary()
    assert f"{len(made.unused) - 1} left out: num_batches_tracked" in made.summary()


def test_mmpose_1_names_of_the_head(lite):
    renamed = {name.replace("keypoint_head.", "head."): array for name, array in lite.items()}
    made = convert(renamed, "mmpose")
    expected = convert(lite).arrays
    assert all(np.array_equal(made.arrays[name], expected[name]) for name in expected)


def test_another_number_of_joints(lite):
    lite |= {HEAD: np.ones((16, 40, 1, 1), "f4"), HEAD.replace("weight", "bias"): np.ones(16, "f4")}
    made = convert(lite)
    assert made.target.network.channels == 16
    assert "16 joints" in made.target.title


@pytest.mark.parametrize("dtype", ["f2", "f8", "bfloat16"])
def test_any_floating_point_type_becomes_float32(lite, dtype):
    rounded = {name: array.astype("f2").astype("f4") for name, array in lite.items()}
    if dtype == "bfloat16":
        rounded = {name: truncated(array) for name, array in lite.items()}
        given = {name: (array.view("u4") >> 16).astype("u2") for name, array in rounded.items()}
    else:
        given = {name: array.astype(dtype) for name, array in rounded.items()}
    made = convert(given)
    for name, array in made.arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, rounded[made.target.names[name]])
    name = np.dtype(dtype).name if dtype != "bfloat16" else dtype
    assert f"{len(lite)} of them: from {name}" in made.summary()


def truncated(array):
    return (array.view("u4") & 0xFFFF0000).view("f4")


# Checkpoints that do not match

CONV = "backbone.stage1.2.layers.1.depthwise_convs.0.conv.weight"


@pytest.mark.parametrize("index", [0, 5, 700, -1])
def test_a_missing_tensor_is_reported(lite, index, refusal):
    name = list(lite)[index]
    del lite[name]
    message = refusal(lite)
    assert f"  1 missing: {name}" in message.splitlines()
    assert "1214 tensors" in message
    assert "unexpected" not in message


def test_a_renamed_tensor_is_missing_and_unexpected(lite, refusal):
    lite["backbone.stage1.2.layers.1.depthwise_conv.0.conv.weight"] = lite.pop(CONV)
    message = refusal(lite)
    assert f"1 missing: {CONV} (the file has backbone.stage1.2.layers.1.depthwise_conv.0" in message
    assert message.endswith("1 unexpected: backbone.stage1.2.layers.1.depthwise_conv.0.conv.weight")


@pytest.mark.parametrize("shape", [(20, 1, 3, 5), (20,), (), (20, 1, 3, 3, 1)])
def test_a_wrong_shape_is_reported(lite, shape, refusal):
    lite[CONV] = np.ones(shape, "f4")
    message = refusal(lite)
    assert f"1 of another shape: {CONV} ({list(shape)}, expected [20, 1, 3, 3])" in message


@pytest.mark.parametrize("shape", [(17, 39, 1, 1), (17, 40, 3, 3), (10**6,), ()])
def test_a_head_that_does_not_match_the_backbone(lite, shape, refusal):
    lite[HEAD] = np.ones(shape, "f4")
    assert f"{HEAD} ({list(shape)}, expected [17, 40, 1, 1])" in refusal(lite)


def test_one_wrong_shape_does_not_change_the_width(checkpoint, refusal):
    arrays, _ = checkpoint("mmpose_hrnet_w32")
    name = "backbone.stage4.0.branches.0.0.conv1.weight"
    arrays[name] = np.ones((48, 48, 3, 3), "f4")
    message = refusal(arrays)
    assert "HRNet of width 32" in message
    assert f"1 of another shape: {name} " in message


def test_huge_widths_are_rejected(checkpoint, refusal):
    arrays, _ = checkpoint("mmpose_hrnet_w32")
    wide = {n: np.ones(10**5, "f4") if "stage4" in n else a for n, a in arrays.items()}
    assert "width of 1 to 256" in refusal(wide)


def test_unsupported_depths_are_rejected(lite, refusal):
    shallow = {name: array for name, array in lite.items() if "stage1.3." not in name}
    assert "(2, 3, 2) modules" in refusal(shallow)
    assert "lite_18 (2, 4, 2)" in refusal(shallow)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_rejected(lite, value, refusal):
    lite[CONV] = lite[CONV].astype("f8")
    lite[CONV][3, 0, 1, 1] = value
    assert f"1 of 180 values of '{CONV}' are not finite" in refusal(lite)


def test_integer_weights_are_rejected(lite, refusal):
    lite[CONV] = lite[CONV].astype("i4")
    assert f"'{CONV}' is int32" in refusal(lite)


def test_long_lists_of_names_are_shortened(lite, refusal):
    extra = {f"backbone.layer1.{i}.weight": np.ones(1, "f4") for i in range(100)}
    message = refusal(lite | extra)
    assert "100 unexpected: backbone.layer1.0.weight" in message
    assert "and 92 more" in message


def test_a_wrong_source_is_rejected(lite, refusal):
    assert "the names are those of 'mmpose', not of 'hrnet'" in refusal(lite, "hrnet")


def test_converted_checkpoints_are_rejected(lite, refusal):
    assert "needs no conversion" in refusal(convert(lite).arrays)


def test_unknown_names_are_reported_with_the_supported_ones():
    with pytest.raises(WeightsError) as error:
        recognise(["a.weight", "b.weight", "c.weight", "d.weight"])
    message = str(error.value)
    assert "a.weight, b.weight, c.weight and 1 more" in message
    assert "hrnet: stage4.… and final_layer" in message
