"""Knowledge distillation: the student learns, and the teacher does not change."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT

from ppose.compression.distill import KL, MSE, Distillation, TargetMSE
from ppose.config import ConfigError
from ppose.experiment import Experiment
from ppose.training.setup import prepare
from ppose.weights.weight_file import WeightsError, read_arrays


def trainer_of(config, overrides, teacher=None, *more, resume=False, hooks=None):
    experiment = Experiment.from_file(config, [*overrides, *more], teacher)
    return prepare(experiment, resume, hooks)


def arrays_of(network):
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def pair(layer, **more):
    return {"student": layer, "teacher": layer} | more


def test_the_student_learns_and_the_teacher_does_not_change(family, teacher_of, tmp_path, capsys):
    config, overrides, larger, layer = family
    teacher = teacher_of(config, larger, [pair(layer, weight=3.0)])
    alone = trainer_of(config, overrides, None, f"output_dir={tmp_path}/alone", hooks=[])
    alone.train()
    trainer = trainer_of(config, overrides, teacher)
    model = trainer.experiment.teacher.model
    before = arrays_of(model)
    trainer.train()
    assert same(before, arrays_of(model))
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert not same(arrays_of(alone.state.network), arrays_of(trainer.state.network))
    assert f"distill.{layer}" in capsys.readouterr().out
    saved = read_arrays(trainer.folder / "last.safetensors")
    assert saved.keys() == trainer.state.network.state_dict().keys()


def test_the_distillation_loss_falls(quickstart, small_run, teacher_of):
    """The student's own loss is scaled to almost 0."""
    teacher = teacher_of(quickstart, small_run, [pair("final_conv", weight=1e4)])
    trainer = trainer_of(
        quickstart,
        small_run,
        teacher,
        "loss.scale=1e-9",
        "epochs=20",
        "optimizer.lr=1e-2",
        hooks=[],
    )
    reports = [trainer.run_step(batches) for batches, _ in trainer.data.batches()]
    losses = [report.losses["distill.final_conv"] for report in reports]
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_with_four_stacks_and_a_student_with_two(
    imhn_quickstart, small_bottomup, teacher_of
):
    pairs = [{"student": "stacks.1.heads.0", "teacher": "stacks.3.heads.0", "weight": 10.0}]
    teacher = teacher_of(imhn_quickstart, [*small_bottomup, "model.stacks=4"], pairs)
    trainer = trainer_of(imhn_quickstart, small_bottomup, teacher, "model.stacks=2", hooks=[])
    reports = [trainer.run_step(batches) for batches, _ in trainer.data.batches()]
    assert all(np.isfinite(list(report.losses.values())).all() for report in reports)
    assert "distill.stacks.1.heads.0" in reports[0].losses


def test_initial_weights_are_the_same_with_and_without_a_teacher(quickstart, small_run, teacher_of):
    teacher = teacher_of(quickstart, small_run, [pair("final_conv")])
    alone = trainer_of(quickstart, small_run, hooks=[])
    assert same(
        arrays_of(alone.state.network),
        arrays_of(trainer_of(quickstart, small_run, teacher, hooks=[]).state.network),
    )


def test_features_of_different_widths_are_adapted_and_resuming_is_exact(family, teacher_of, capsys):
    """The adapter is trained and in the checkpoint, but not in the saved weights."""
    config, overrides, larger, layer = family
    if layer == "final_conv":
        features, larger = "backbone.la1.block_layer2_1", [*larger, "model.backbone.stage1_width=8"]
    else:
        features, larger = "stem.residual1", [*larger, "model.width=32"]
    pairs = [pair(layer), pair(features)]
    teacher = teacher_of(config, larger, pairs)
    more = ("save_every=0.5", "epochs=2")
    whole = trainer_of(config, overrides, teacher, *more)
    assert list(whole.state.distillation.trained)
    start = {k: v.numpy().copy() for k, v in whole.state.distillation.trained.items()}
    whole.train()
    moved = {k: v.numpy().copy() for k, v in whole.state.distillation.trained.items()}
    assert not same(start, moved)
    assert not [k for k in read_arrays(whole.folder / "last.safetensors") if "adapter" in k]

    elsewhere = f"output_dir={whole.folder}2"
    part = trainer_of(config, overrides, teacher, *more, elsewhere)
    for batches, _ in part.data.batches():
        part.run_step(batches)
        if part.state.step == 1:
            break
    part.save()
    resumed = trainer_of(config, overrides, teacher, *more, elsewhere, resume=True)
    resumed.train()
    assert same(arrays_of(whole.state.network), arrays_of(resumed.state.network))
    assert same(moved, {k: v.numpy() for k, v in resumed.state.distillation.trained.items()})


def test_resuming_with_another_teacher_is_an_error(quickstart, small_run, teacher_of):
    teacher = teacher_of(quickstart, small_run, [pair("final_conv")])
    trainer = trainer_of(quickstart, small_run, teacher, hooks=[])
    trainer.save()
    with pytest.raises(WeightsError, match="another 'teacher'"):
        trainer_of(quickstart, small_run, resume=True, hooks=[])


@pytest.mark.parametrize("loss", ["mse", "target_mse", "kl"])
def test_losses_are_multiplied_by_their_weight(quickstart, small_run, teacher_of, loss):
    found = []
    for weight in (1.0, 2.5):
        teacher = teacher_of(quickstart, small_run, [pair("final_conv", loss=loss, weight=weight)])
        trainer = trainer_of(quickstart, small_run, teacher, hooks=[])
        batches, _ = next(trainer.data.batches())
        found.append(trainer.run_step(batches).losses["distill.final_conv"])
    assert found[1] == pytest.approx(2.5 * found[0], rel=1e-5)
    assert found[0] > 0


def maps(seed, shape=(2, 3, 4, 5)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_mse_is_the_mean_squared_difference():
    one, other = maps(0), maps(1)
    found = float(MSE()(paddle.to_tensor(one), paddle.to_tensor(other)))
    assert found == pytest.approx(((one - other) ** 2).mean(), rel=1e-5)


def test_target_mse_weights_cells_by_the_target():
    one, other, target = maps(0), maps(1), np.abs(maps(2))
    loss = TargetMSE()
    loss.target = paddle.to_tensor(target)
    errors = ((one - other) ** 2 * target).sum((1, 2, 3)) / target.sum((1, 2, 3))
    found = float(loss(paddle.to_tensor(one), paddle.to_tensor(other)))
    assert found == pytest.approx(errors.mean(), rel=1e-5)


def test_kl_is_the_divergence_of_distributions_over_cells():
    one, other = maps(0), maps(1)

    def distribution(values):
        values = np.exp(values.reshape(2, 3, 20))
        return values / values.sum(2, keepdims=True)

    p, q = distribution(other), distribution(one)
    expected = (p * np.log(p / q)).sum(2).mean()
    found = float(KL()(paddle.to_tensor(one), paddle.to_tensor(other)))
    assert found == pytest.approx(expected, rel=1e-4)
    assert float(KL()(paddle.to_tensor(one), paddle.to_tensor(one))) == pytest.approx(0, abs=1e-6)


def test_kl_uses_its_temperature(quickstart, small_run, teacher_of):
    experiment = Experiment.from_file(quickstart, small_run)
    image = paddle.to_tensor(maps(0, (2, 3, 64, 64)))
    found = {}
    for temperature in (1.0, 0.25):
        layers = [pair("final_conv", loss="kl", temperature=temperature)]
        path = teacher_of(quickstart, small_run, layers)
        teacher = Experiment.from_file(quickstart, small_run, path).teacher
        distillation = Distillation(experiment.model, teacher, (64, 64))
        _, losses = distillation(image, image, paddle.zeros([1]))
        found[temperature] = float(losses["distill.final_conv"])
    student, known = experiment.model(image), teacher.model(image)
    expected = 0.25**2 * float(KL()(student / 0.25, known / 0.25))
    assert found[0.25] == pytest.approx(expected, rel=1e-3)
    assert found[0.25] != pytest.approx(found[1.0], rel=1e-3)


def test_images_are_normalised_for_the_teacher(quickstart, small_run, teacher_of):
    """With the teacher's mean and standard deviation, not the student's."""
    losses = []
    for mean in (0.485, 0.1):
        overrides = [*small_run, f"normalize.mean=[{mean}, 0.456, 0.406]"]
        teacher = teacher_of(quickstart, overrides, [pair("final_conv")])
        trainer = trainer_of(quickstart, small_run, teacher, hooks=[])
        batches, _ = next(trainer.data.batches())
        losses.append(trainer.run_step(batches).losses["distill.final_conv"])
    assert losses[0] != losses[1]


def test_the_network_runs_once_per_step(quickstart, small_run, teacher_of):
    """Running it twice would update batch-norm statistics twice."""
    teacher = teacher_of(quickstart, small_run, [pair("final_conv")])
    trainer = trainer_of(quickstart, small_run, teacher, hooks=[])
    calls = []
    trainer.state.network.register_forward_post_hook(lambda *_: calls.append(1))
    for batches, _ in trainer.data.batches():
        trainer.run_step(batches)
    assert len(calls) == trainer.data.last_step


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("codec.size_wh=[96, 64]",), r"its maps are 24x16 \(input 96x64\), the student's 16x16"),
        (("distill=[]",), "nothing to learn"),
        (("distill.0.student=final_cov",), "no layer 'final_cov'; did you mean 'final_conv'"),
        (("distill.0.teacher=backbone.tr9",), "PoseNet has no layer 'backbone.tr9'; did you mean"),
        (
            ("distill.0.teacher=backbone.conv_layer1_1",),
            r"outputs \[17, 16, 16\].* of the teacher \[8, 32, 32\]",
        ),
        (("distill.0.teacher=backbone.tr3",), "'backbone.tr3' outputs no map in eval mode"),
        (("distill.0.loss=huber",), "expected one of 'mse', 'target_mse', 'kl'"),
        (("distill.0.weight=0",), "expected float above 0"),
        (("distill.0.temperature=2.0",), "temperature is an argument of the loss kl"),
        (
            (
                "distill.0.loss=target_mse",
                "distill.0.student=backbone.conv_layer1_2",
                "distill.0.teacher=backbone.conv_layer1_2",
            ),
            "target_mse needs maps of the target's shape",
        ),
    ],
)
def test_teachers_that_do_not_match_are_errors(quickstart, small_run, teacher_of, change, message):
    path = teacher_of(quickstart, small_run, [pair("final_conv")])
    overrides = [*small_run, *(f"teacher.{text}" for text in change)]
    with pytest.raises(ConfigError, match=message):
        trainer = trainer_of(quickstart, overrides, path, hooks=[])
        trainer.run_step(next(trainer.data.batches())[0])


def test_a_teacher_with_other_joints_is_an_error(quickstart, small_run, teacher_of):
    joints = "[{name: nose, sigma: 0.03}, {name: neck, sigma: 0.05}]"
    skeleton = "skeleton={name: head, joints: " + joints + ", limbs: [[nose, neck]]}"
    path = teacher_of(quickstart, [*small_run, skeleton], [pair("final_conv")])
    message = "the teacher has the 2 joints of 'head', the student 17 of 'coco17'"
    with pytest.raises(ConfigError, match=message):
        trainer_of(quickstart, small_run, path, hooks=[])


def test_a_teacher_of_another_family_is_an_error(
    quickstart, small_run, imhn_quickstart, small_bottomup, teacher_of
):
    path = teacher_of(imhn_quickstart, small_bottomup, [pair("stacks.0.heads.0")])
    with pytest.raises(ConfigError, match="expected 17 maps of Heatmap as the student has, found"):
        trainer_of(quickstart, small_run, path, hooks=[])


def test_weights_of_another_network_are_an_error(quickstart, small_run, teacher_of):
    path = teacher_of(quickstart, small_run, [pair("final_conv")])
    overrides = [*small_run, "teacher.model.backbone.width=6"]
    with pytest.raises(WeightsError, match="does not fit PoseNet"):
        trainer_of(quickstart, overrides, path, hooks=[])


def test_a_static_graph_with_a_teacher_is_an_error(quickstart, small_run, teacher_of):
    path = teacher_of(quickstart, small_run, [pair("final_conv")])
    with pytest.raises(ConfigError, match="to_static: teacher needs the network layer by layer"):
        trainer_of(quickstart, small_run, path, "to_static=true", hooks=[])


def test_distillation_from_the_command_line(quickstart, small_run, teacher_of, tmp_path):
    path = teacher_of(quickstart, small_run, [pair("final_conv")])
    command = [sys.executable, "tools/train.py", "-c", str(quickstart)]
    command += [f"--distill_config={path}", "-o", *small_run, "epochs=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "distill.final_conv" in done.stdout
    missing = [*command, "teacher.weights=nowhere.safetensors", f"output_dir={tmp_path}/other"]
    done = subprocess.run(missing, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode != 0
    assert "nowhere.safetensors" in done.stderr
