"""The curves and images that VisualDL shows."""

import json

import cv2
import numpy as np
import pytest
from small_trainer import trainer_of
from visualdl import LogReader

from ppose.experiment import Experiment
from ppose.training.hooks import visualdl as module
from ppose.training.hooks.metrics_file import MetricsFileHook
from ppose.training.hooks.scoring import EvaluationHook
from ppose.training.hooks.visualdl import VisualDLHook, records
from ppose.training.setup import prepare


def newest(trainer):
    return max((trainer.folder / "vdl").glob("vdlrecords.*.log"))


def reader_of(trainer):
    return LogReader(file_path=str(newest(trainer)))


def curve(reader, tag):
    return [(point.id, point.value) for point in reader.get_data("scalar", tag)]


def pictures(reader, tag):
    found = {}
    for item in reader.get_data("image", tag):
        encoded = np.frombuffer(item.image.encoded_image_string, np.uint8)
        found[item.id] = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return found


def test_every_curve_is_that_of_the_metrics(config):
    trainer = trainer_of(
        config, "eval_every=1", "log_every=2", hooks=[MetricsFileHook(), VisualDLHook()]
    )
    trainer.hooks.append(EvaluationHook())
    trainer.train()
    reader = reader_of(trainer)
    lines = [json.loads(line) for line in (trainer.folder / "metrics.jsonl").open()]
    expected = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, float) or name == "replaced":
                tag = f"{line['kind']}/{name}"
                expected.setdefault(tag, []).append((line["step"], value))
    assert set(expected) == set(reader.get_tags()["scalar"])
    losses = {f"train/loss/{name}" for name in ("limbs", "joints", "masks")}
    assert losses < set(expected) or "train/loss/heatmap" in expected
    for tag, points in expected.items():
        if tag == "train/memory_mb":
            continue  # of another moment
        steps, values = zip(*points, strict=True)
        shown_steps, shown = zip(*curve(reader, tag), strict=True)
        assert shown_steps == steps
        np.testing.assert_allclose(shown, values, rtol=1e-6, err_msg=tag)


def test_pictures_at_the_first_step_and_at_evaluations(config):
    trainer = trainer_of(config, hooks=[VisualDLHook(), EvaluationHook()])
    trainer.train()
    reader = reader_of(trainer)
    last = trainer.data.last_step
    shown = {tag: pictures(reader, tag) for tag in reader.get_tags()["image"]}
    assert {tag: set(of_tag) for tag, of_tag in shown.items()} == {
        "train/targets": {1, last},
        "train/heatmaps": {last},
        "val/predictions": {last},
    }
    for of_tag in shown.values():
        for picture in of_tag.values():
            assert picture.shape[1] == 1280 and picture.std() > 10


def test_targets_glow_at_the_joints_of_the_inputs(config):
    """In a picture of an input, what is brightest lies on its joints and nowhere else."""
    trainer = trainer_of(config, hooks=[])
    (batch,), _ = next(trainer.data.batches())
    images, targets = batch["image"].numpy(), batch["target"].numpy()
    codec = trainer.experiment.codec
    joints = slice(None) if codec.uses_boxes else codec.parts.joint_channels
    drawn = module._with_maps(trainer, images * 0, targets)
    for picture, maps in zip(drawn, targets[:, joints], strict=True):
        peaks = cv2.resize(maps.max(0), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        brightness = picture.astype(int).sum(-1)
        if (peaks > 0.8).any():
            assert brightness[peaks > 0.8].min() > brightness[peaks < 0.2].max()
        assert brightness[peaks == 0].max(initial=0) < 30


def test_nothing_is_drawn_between_evaluations(topdown, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        module, "draw_grid", lambda images: drawn.append(1) or np.zeros((4, 4, 3), np.uint8)
    )
    trainer = trainer_of(topdown, "epochs=4", hooks=[VisualDLHook()])
    trainer.train()
    assert len(drawn) == 1


@pytest.mark.parametrize("beyond", [0, 2])
def test_a_resumed_run_goes_on_with_its_curves(topdown, beyond):
    """Also where the run that was killed had gone beyond its last checkpoint."""
    first = trainer_of(topdown, "epochs=3", hooks=[VisualDLHook()])
    board = first.hooks[0]
    board.before_train(first)
    batches = first.data.batches()
    for step in range(1, 3 + beyond):
        batch, waited = next(batches)
        board.after_step(first, first.run_step(batch, waited))
        if step == 2:
            first.save()
    board.close(first)
    before = curve(reader_of(first), "train/loss")[:2]
    with newest(first).open("ab") as file:
        file.write(b"\x10\0\0\0\0\0\0\0torn")

    second = trainer_of(topdown, "epochs=3", hooks=[VisualDLHook()], resume=True)
    second.train()
    points = curve(reader_of(second), "train/loss")
    assert points[:2] == before
    assert [step for step, _ in points] == list(range(1, second.data.last_step + 1))
    assert set(pictures(reader_of(second), "train/targets")) == {1, 3}


def test_nothing_is_rewritten_where_nothing_has_to_go(topdown):
    first = trainer_of(topdown, "epochs=1", hooks=[VisualDLHook()])
    first.train()
    first.save()
    path = newest(first)
    content = path.read_bytes()
    second = trainer_of(topdown, "epochs=2", hooks=[VisualDLHook()], resume=True)
    second.train()
    assert list((second.folder / "vdl").iterdir()) == [path]
    assert path.read_bytes().startswith(content)


def test_records_of_a_torn_file(tmp_path):
    path = tmp_path / "vdlrecords.1.log"
    whole = b"\x03\0\0\0\0\0\0\0abc" + b"\x01\0\0\0\0\0\0\0d"
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        assert list(records(path)) == [b"abc", b"d"][: (end >= 11) + (end >= 20)]


def test_watching_changes_no_weight(config):
    """Images and heat maps leave training as it is, bit for bit."""
    plain = trainer_of(config, "eval_every=1", hooks=[])
    plain.train()
    path, overrides = config
    watched = prepare(Experiment.from_file(path, [*overrides, "eval_every=1"]))
    assert {type(h).__name__ for h in watched.hooks} >= {
        "VisualDLHook",
        "ConsoleHook",
        "MetricsFileHook",
    }
    watched.train()
    one, two = (t.state.network.state_dict() for t in (plain, watched))
    assert all(np.array_equal(one[k].numpy(), two[k].numpy()) for k in one)
