"""The command lines, as a user types them."""

import json

import cv2
import numpy as np
import pytest
from command_line import tool
from conftest import ROOT, VAL, data_of

from ppose.weights.weight_file import read_arrays

QUICKSTART = "configs/quickstart.yml"


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    """Overrides of a run that was trained for one epoch by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    overrides = [
        *data_of(people),
        f"output_dir={folder}",
        "model.backbone={type: HRNet, width: 4, modules: [1, 1, 1], blocks: 1, stem_width: 8, "
        "stage1_width: 4, stage1_blocks: 1}",
        "input_size=[64, 64]",
        "weights=null",
        "workers=1",
    ]
    tool("train", "-c", QUICKSTART, "-o", *overrides, "epochs=1")
    return folder, overrides


def test_train_then_resume_to_more_epochs(trained):
    folder, overrides = trained
    out = tool("train", "-c", QUICKSTART, "--resume", "-o", *overrides, "epochs=2")
    assert "resumed after step" in out
    assert "epoch 2/2" in out
    assert read_arrays(folder / "last.safetensors")


def test_eval_prints_the_table_and_writes_json_and_results(trained, tmp_path):
    folder, overrides = trained
    scores, results = tmp_path / "scores.json", tmp_path / "results.json"
    out = tool("eval", "-c", QUICKSTART, "--json", scores, "--results", results, "-o", *overrides)
    assert "AP50" in out
    assert str(folder / "best.safetensors") in out
    found = json.loads(scores.read_text())
    assert {"AP", "AP50", "AP75", "APM", "APL", "AR", "box_source", "weights"} <= found.keys()
    assert found["box_source"] == "ground truth"
    assert found["images"] == VAL
    poses = json.loads(results.read_text())
    assert len(poses[0]["keypoints"]) == 51


def test_eval_with_a_detectors_boxes(trained, people, tmp_path):
    _, overrides = trained
    annotations = json.loads((people / "annotations/person_keypoints_val.json").read_text())
    boxes = tmp_path / "detector.json"
    boxes.write_text(
        json.dumps(
            [
                {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": s}
                for a in annotations["annotations"]
                for s in (0.9, 0.2)
            ]
        )
    )
    scores = tmp_path / "scores.json"
    common = ["eval", "-c", QUICKSTART, "--json", scores, "-o", *overrides]
    counts = []
    for threshold in (0.1, 0.5):
        tool(
            *common,
            f"val_dataset.bbox_file={boxes}",
            f"val_dataset.min_box_score={threshold}",
            "postprocess.oks_nms=null",
        )
        found = json.loads(scores.read_text())
        assert found["box_source"] == "detector.json"
        counts.append(found["detections"])
    assert counts[0] == 2 * counts[1] == 2 * len(annotations["annotations"])


def test_infer_with_the_weights_that_ship(tmp_path):
    tool(
        "infer", "-c", QUICKSTART, "--infer_img=dataset/test_image/people.jpg",
        "--bbox_file=dataset/test_image/boxes.json", f"--output_dir={tmp_path}",
    )  # fmt: skip
    (picture,) = json.loads((tmp_path / "poses.json").read_text())["images"]
    assert picture["box_source"] == "boxes.json"
    assert len(picture["people"]) == 3
    for person in picture["people"]:
        assert person["score"] > 0.4
        assert np.array(person["keypoints"]).shape == (17, 3)
    drawn = cv2.imread(str(tmp_path / "people.jpg")).astype(int)
    original = cv2.imread(str(ROOT / "dataset/test_image/people.jpg"))
    assert drawn.shape == original.shape
    assert (np.abs(drawn - original).max(-1) > 60).mean() > 0.003


def test_infer_takes_folders_and_names_what_it_cannot_read(trained, people, tmp_path):
    _, overrides = trained
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((people / "val").iterdir())[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    out = tool(
        "infer", "-c", QUICKSTART, "--infer_img", folder, "--output_dir", tmp_path / "out",
        "-o", *overrides,
    )  # fmt: skip
    assert "left out" in out
    assert "broken.jpg" in out
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2


def test_infer_with_given_boxes_and_a_draw_threshold(trained, people, tmp_path):
    _, overrides = trained
    picture = sorted((people / "val").iterdir())[0]
    common = ["infer", "-c", QUICKSTART, "--infer_img", picture]
    for name, threshold in (("all", -1), ("none", 1.1)):
        tool(
            *common, "--output_dir", tmp_path / name, "--draw_threshold", threshold,
            "--box", 10, 10, 60, 90, "--box", 80, 10, 60, 90, "-o", *overrides,
        )  # fmt: skip
    found = [json.loads((tmp_path / n / "poses.json").read_text()) for n in ("all", "none")]
    assert found[0]["images"][0]["people"] == found[1]["images"][0]["people"]
    assert found[0]["images"][0]["box_source"] == "given boxes"
    drawn, bare = (cv2.imread(str(tmp_path / n / picture.name)) for n in ("all", "none"))
    assert (drawn != bare).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-c", "configs/quikstart.yml"], "did you mean 'quickstart.yml'"),
        (["train", "-c", QUICKSTART, "-o", "epoch=1"], "epoch: .* did you mean 'epochs'"),
        (["train", "-c", QUICKSTART, "-o", "train_dataset.anno_path=nowhere"], "nowhere"),
        (["eval", "-c", QUICKSTART, "-o", "weights=nowhere.pdparams"], "nowhere.pdparams"),
        (["eval", "-c", QUICKSTART, "-o", "weights=README.md"], "README.md"),
        (["eval", "-c", QUICKSTART, "-o", "weights=ftp://a/b.pdparams"], "ftp"),
        (["infer", "-c", QUICKSTART, "--infer_img", "nothing/*.jpg"], "nothing"),
        (
            ["infer", "-c", QUICKSTART, "--infer_img", "README.md"],
            "README.md",
        ),
        (["config", "-c", QUICKSTART, "-o", "model.backbone.widht=1"], "did you mean 'width'"),
    ],
)
def test_errors_are_one_line_without_a_trace(arguments, message, people):
    import re

    data = [
        f"val_dataset.image_dir={people}/val",
        f"val_dataset.anno_path={people}/annotations/person_keypoints_val.json",
    ]
    if arguments[0] == "eval":
        arguments = [*arguments, *data]
    out = tool(*arguments, expect=1)
    assert re.search(message, out), out
    assert "error: " in out


def test_config_prints_what_it_resolves(tmp_path):
    import yaml

    out = tool("config", "-c", "configs/hrnet_w48_256x192.yml", "-o", "seed=7")
    config = yaml.safe_load(out)
    assert config["seed"] == 7
    assert config["model"]["backbone"] == {"type": "HRNet", "width": 48}
    assert "${" not in out
