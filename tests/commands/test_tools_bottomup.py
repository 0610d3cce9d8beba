"""The command lines with a bottom-up config: whole images, no boxes."""

import json
import re

import cv2
import numpy as np
import pytest
from command_line import tool
from conftest import ROOT, VAL, data_of

from ppose.weights.weight_file import read_arrays

QUICKSTART = "configs/imhn_quickstart.yml"


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    """Folder and overrides of a run that was trained for one epoch by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    overrides = [
        *data_of(people),
        f"output_dir={folder}",
        "model={width: 16, increase: 0}",
        "input_size=[64, 64]",
        "crop.size=64",
        "weights=null",
        "pretrain_weights=null",
        "workers=1",
    ]
    swa = "swa={type: SWA, start_epoch: 0, norm_batches: 1}"
    out = tool("train", "-c", QUICKSTART, "-o", *overrides, "epochs=1", swa)
    assert re.search(r"limbs \d.*joints \d.*masks \d", out)
    return folder, overrides


def test_train_then_resume_to_more_epochs(trained):
    folder, overrides = trained
    swa = "swa={type: SWA, start_epoch: 0, norm_batches: 1}"
    out = tool("train", "-c", QUICKSTART, "--resume", "-o", *overrides, "epochs=2", swa)
    assert "resumed after step" in out
    assert "mean of the weights of 2 epochs" in out
    assert read_arrays(folder / "swa.safetensors")


def test_every_picture_is_evaluated_without_boxes(trained, people, tmp_path):
    _, overrides = trained
    scores = tmp_path / "scores.json"
    annotations = json.loads((people / "annotations/person_keypoints_val.json").read_text())
    nobody = annotations["images"][0]["id"]
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] != nobody]
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(annotations))
    tool(
        "eval", "-c", QUICKSTART, "--json", scores, "-o", *overrides,
        f"val_dataset.anno_path={fewer}", "crop.scales=[1.0, 0.5]",
    )  # fmt: skip
    found = json.loads(scores.read_text())
    assert found["images"] == VAL
    assert found["box_source"] in ("no boxes: bottom-up", "none")


def test_infer_with_the_weights_that_ship(tmp_path):
    tool("infer", "-c", QUICKSTART, "--infer_img=dataset/test_image", f"--output_dir={tmp_path}")
    pictures = {
        picture["image"].rpartition("/")[2]: picture["people"]
        for picture in json.loads((tmp_path / "poses.json").read_text())["images"]
    }
    for name in ("people.jpg", "square.jpg", "room.jpg"):
        sure = [person for person in pictures[name] if person["score"] > 0.4]
        assert len(sure) == 3, name
        for person in sure:
            x, y, _, height = person["box_xywh"]
            seen = np.array([joint for joint in person["keypoints"] if joint[2] > 0])
            assert seen[:, 0].min() == pytest.approx(x, abs=0.1)
            assert seen[:, 1].max() == pytest.approx(y + height, abs=0.1)
    drawn = cv2.imread(str(tmp_path / "people.jpg")).astype(int)
    original = cv2.imread(str(ROOT / "dataset/test_image/people.jpg"))
    assert (np.abs(drawn - original).max(-1) > 60).mean() > 0.003


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer", "--infer_img=dataset/test_image", "--box", 1, 2, 3, 4], "is bottom-up"),
        (
            [
                "infer",
                "--infer_img=dataset/test_image",
                "--bbox_file=dataset/test_image/boxes.json",
            ],
            "omit the boxes",
        ),
        (["train", "-o", "codec.parts=simple"], "parts: no parts are named 'simple'"),
        (["train", "-o", "train_dataset={type: CocoDataset, skeleton: coco17}"], "CocoMultiPerson"),
        (["train", "-o", "loss={type: HeatmapMSE}"], "loss: HeatmapMSE is top-down"),
        (
            ["train", "-o", "crop={type: BoxCrop, size_wh: [256, 192]}", "train_transforms=[]"],
            "crop: BoxCrop is top-down",
        ),
        (["train", "-o", "val_dataset.bbox_file=x.json"], "a bottom-up network finds people by"),
        (["train", "-o", "swa={type: SWA, start_epoch: 9}"], "swa: the first weights would be"),
        (
            ["train", "-o", "skeleton={name: two, joints: [{name: a, sigma: 1}], limbs: []}"],
            "codec: its joints are those of 'coco17', but the skeleton is 'two'",
        ),
        (
            ["train", "-o", "codec.parts={skeleton: coco17, limbs: [[left_hip, left_knee]]}"],
            "flip_test: ",
        ),
        (["train", "-o", "model.stacks=0"], "model.stacks: expected int in 1..16, found int 0"),
        (["train", "-o", "input_size=[200, 200]"], "input_size: expected multiples of 64"),
        (["train", "-o", "codec.stride=8"], "codec.stride: the network's maps have stride 4"),
        (["train", "-o", "codec.grouping.sample=5"], "did you mean 'samples'"),
        (["train", "-o", "crop.side=wide"], "crop.side: expected one of 'short', 'height', 'long'"),
        (
            ["train", "-o", "model.parts={type: PartLayout, skeleton: coco17}"],
            "codec: expected 38 maps as the network gives, found 50",
        ),
    ],
)
def test_errors_are_one_line_without_a_trace(arguments, message, people, tmp_path):
    name, *rest = arguments
    data = [
        *data_of(people),
        f"output_dir={tmp_path}",
        "pretrain_weights=null",
    ]
    out = tool(name, "-c", QUICKSTART, *rest, "-o", *data, expect=1)
    assert message in out
    assert "error: " in out
