"""Shipped configs: each builds, runs forward, and trains all of its parameters."""

import json

import numpy as np
import paddle
import pytest
from conftest import ROOT, data_of

from ppose.compression.calibrate import calibrate, quantize_only
from ppose.config import ConfigError, dump_config, load_config
from ppose.data.loader import TrainingSet
from ppose.experiment import Experiment
from ppose.optim.batch_norm import reestimate_batch_norm
from ppose.structures.skeleton import COCO17

CONFIGS = sorted((ROOT / "configs").glob("*.yml"))


@pytest.fixture
def read_small(people):
    """Reads a config, with the small dataset and 64×64 inputs."""

    def read(path):
        return Experiment.from_file(
            path,
            [
                *data_of(people),
                "input_size=[64, 64]",
            ],
        )

    return read


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_runs_forward_and_trains_every_parameter(read_small, path):
    run = read_small(path)
    dataset = TrainingSet(run.train_dataset, run.train_transforms, run.codec, run.seed)
    samples = [dataset[0, i] for i in range(4)]
    batch = {k: paddle.to_tensor(np.stack([s[k] for s in samples])) for k in samples[0]}

    images = run.normalize(batch["image"])
    if run.quantize:
        # With the initial statistics of the batch norms, activations would vanish.
        with quantize_only(run.model, ()):
            reestimate_batch_norm(run.model, [images], 1)
        calibrate(run.model, [images], 1)
    outputs = run.model(images)
    maps = outputs if isinstance(outputs, paddle.Tensor) else outputs[-1][0]
    assert maps.shape == batch["target"].shape
    losses = run.loss(outputs, batch)
    sum(losses.values()).backward()
    for name, parameter in run.model.named_parameters():
        if not parameter.stop_gradient:
            gradient = parameter.grad.numpy()
            assert np.isfinite(gradient).all(), name
            # A clipping value has a gradient only if something is clipped.
            assert gradient.any() or name.endswith("_act_preprocess.alpha"), name

    optimizer = run.optimizer.create(dict(run.model.named_parameters()))
    optimizer.step()
    assert 0 < run.schedule.factor(0, 100, run.epochs) <= 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_has_a_comment_and_its_dump_is_valid(path, tmp_path):
    text = path.read_text()
    head = text[: text.index("_base_")]
    assert f"-c configs/{path.name}" in head or "make quickstart" in head
    assert "AP" in head
    resolved = tmp_path / path.name
    resolved.write_text(dump_config(load_config(path)))
    assert Experiment.from_file(resolved).config == load_config(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.backbone.widht=48",
            r"model.backbone.widht: HRNet has no argument 'widht'; did",
        ),
        ("epoch=1", "epoch: Config has no argument 'epoch'; did you mean 'epochs'"),
        ("epochs=many", "epochs: expected int in .*, found str 'many'"),
        ("val_dataset.image_dri=x", "val_dataset.image_dri: .*did you mean 'image_dir'"),
        ("skeleton=coco_17", "did you mean 'coco17'"),
        ("codec.refine=darc", "codec.refine: expected one of 'argmax', 'quarter', 'dark'"),
        ("train_transforms.2.spread=x", "train_transforms.2.spread: expected float"),
        ("loss.type=HeatMapMSE", "did you mean 'HeatmapMSE'"),
    ],
)
def test_wrong_keys_and_values_are_errors_that_name_them(override, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.from_file(ROOT / "configs" / "hrnet_w32_256x192.yml", [override])


def test_input_size_is_followed_by_its_references():
    path = ROOT / "configs" / "hrnet_w32_256x192.yml"
    run = Experiment.from_file(path, ["input_size=[288, 384]"])
    assert run.codec.cells_wh == (72, 96)
    assert run.crop.size_wh == (288, 384)
    assert run.train_transforms[1].size_wh == (288, 384)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["codec.stride=2"], "codec.stride: the network's maps have stride 4, found 2"),
        (["input_size=[100, 100]"], "input_size: expected multiples of 32"),
        (["crop.size_wh=[64, 64]"], r"crop.size_wh: expected \(96, 128\)"),
    ],
)
def test_parts_that_do_not_fit_are_errors(overrides, message):
    run = Experiment.from_file(ROOT / "configs" / "quickstart.yml", overrides)
    with pytest.raises(ConfigError, match=message):
        run.estimator()


def with_joints(**changes):
    """COCO's joints with changes, as an override of the config's skeleton."""
    joints = [j | changes.get(j["name"], {}) for j in COCO17.node()["joints"]]
    return "skeleton=" + json.dumps({"name": "mine", "joints": joints, "limbs": []})


@pytest.mark.parametrize("flips", [True, False])
def test_a_side_that_is_missing_is_an_error_before_training(flips):
    """Read before the data, which does not exist."""
    change = with_joints(left_ear={"mirror": None}, right_ear={"mirror": None})
    run = Experiment.from_file("hrnet_w32_256x192", [change, f"flip_test={flips}".lower()])
    if not flips:
        del run.config["train_transforms"][4]
    with pytest.raises(ConfigError, match="write {name: left_ear, sigma: 0.035, mirror: right_ear"):
        run.training_set()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["skeleton={name: x, joints: [{name: a, sigma: 1}], limbs: []}"],
            "flip_test: .*'x' has no",
        ),
        (
            ["train_transforms.4.skeleton={name: x, joints: [{name: a, sigma: 1}], limbs: []}"],
            "train_transforms.4: .* no mirror pairs",
        ),
        (
            [f"train_transforms.4.{with_joints(left_ear={'sigma': 1})}"],
            r"train_transforms.4: its sigmas, .* 'mine', but .* 'coco17'; write .*\${skeleton}",
        ),
        (
            ["codec.skeleton={name: x, joints: [{name: a, sigma: 1}], limbs: []}"],
            "codec: its joints",
        ),
        (
            [with_joints(**{name: {"part": "upper"} for name in COCO17.joint_names})],
            "train_transforms.0: HalfBody: skeleton 'mine' has 0 joints with part: lower",
        ),
    ],
)
def test_skeletons_that_a_transform_cannot_use_are_errors(overrides, message):
    run = Experiment.from_file("hrnet_w32_256x192", overrides)
    with pytest.raises(ConfigError, match=message):
        run.training_set()


def test_pairs_found_in_names_are_printed_once(capsys):
    change = with_joints(**{name: {"mirror": None} for name in COCO17.joint_names})
    run = Experiment.from_file("quickstart", [change])
    run.check_fit()
    run.estimator()
    assert capsys.readouterr().out.count("mirror pairs found in the names: left_eye/right_eye") == 1


@pytest.mark.parametrize("key", ["epochs", "batch_size", "eval_every", "log_every"])
def test_counts_are_at_least_one(key):
    with pytest.raises(ConfigError, match=rf"{key}: expected int in 1\.\.\d+, found int 0"):
        Experiment.from_file(ROOT / "configs" / "quickstart.yml", [f"{key}=0"])


def test_an_unknown_attribute_is_an_attribute_error():
    run = Experiment.from_file(ROOT / "configs" / "quickstart.yml")
    with pytest.raises(AttributeError, match="no 'epoch'"):
        _ = run.epoch
