"""Cuts are detected; motion, light and flashes are none."""

import itertools

import cv2
import numpy as np
import pytest
from conftest import ROOT
from deploy.video.test_tracking import person, poses
from deploy.video.test_video import lines, write_clip

from ppose.data.images import list_images, read_image
from ppose.deploy.video.run_video import run_video
from ppose.deploy.video.scenes import SceneDetector
from ppose.deploy.video.smoothing import OneEuroSmoother
from ppose.deploy.video.tracking import UNTRACKED, Tracker

PHOTOS = [read_image(path) for path in list_images(ROOT / "dataset" / "test_image")]


def scenes_of(images, fps=25.0):
    detect = SceneDetector()
    return [detect(image, index / fps) for index, image in enumerate(images)]


def moved(image, right=0.0, down=0.0, angle=0.0, scale=1.3):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] += (right * width, down * height)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def brighter(image, gain, offset=0):
    return np.clip(gain * image.astype(float) + offset, 0, 255).astype(np.uint8)


def test_a_cut_between_any_two_photographs_begins_a_scene():
    for one, two in itertools.permutations(PHOTOS, 2):
        assert scenes_of([one, one, two, two, one, one]) == [0, 0, 1, 1, 0, 0]
        assert scenes_of([one] + 30 * [two] + [one]) == [0] + 30 * [1] + [2]


@pytest.mark.parametrize("photo", PHOTOS, ids=range(len(PHOTOS)))
@pytest.mark.parametrize(
    "change",
    [
        lambda image, step: moved(image, right=0.1 * step),
        lambda image, step: moved(image, down=0.08 * step, right=-0.05 * step),
        lambda image, step: moved(image, angle=4 * step),
        lambda image, step: moved(image, scale=1.3 * 1.08**step),
        lambda image, step: brighter(image, 0.5**step),
        lambda image, step: cv2.GaussianBlur(image, (0, 0), 1 + 3 * step),
    ],
    ids=["pan", "tilt", "turn", "zoom", "dark", "blur"],
)
def test_motion_and_light_are_no_cut(photo, change):
    assert scenes_of([change(photo, step) for step in range(4)]) == [0, 0, 0, 0]


@pytest.mark.parametrize("photo", PHOTOS, ids=range(len(PHOTOS)))
@pytest.mark.parametrize(("gain", "offset"), [(2, 40), (4, 80), (0, 255), (0, 0), (-1, 255)])
def test_a_flash_resumes_the_scene(photo, gain, offset):
    found = scenes_of([photo, photo, brighter(photo, gain, offset), photo, photo])
    assert found[:2] == found[3:] == [0, 0]


def test_a_plain_picture_is_no_cut():
    plain = np.full((48, 64, 3), 200, np.uint8)
    assert scenes_of([PHOTOS[0], plain, plain * 0, PHOTOS[0]]) == [0, 0, 0, 0]


def test_tracks_end_at_a_cut_and_go_on_after_a_flash():
    tracker = Tracker()
    ids = [
        tracker(poses(person(100 + 2 * frame)), frame / 25, scene).track_ids.tolist()
        for frame, scene in enumerate([0] * 5 + [1] * 2 + [0] * 3 + [2] * 5 + [3] * 5)
    ]
    assert ids[:5] + ids[7:10] == [[1]] * 8
    assert ids[5:7] == [[UNTRACKED]] * 2
    assert ids[10:15] == [[UNTRACKED]] * 2 + [[2]] * 3
    assert ids[15:] == [[UNTRACKED]] * 2 + [[3]] * 3


def test_a_video_of_two_photographs(tmp_path):
    """Somebody stands at the same place in both."""
    height, width = PHOTOS[0].shape[:2]
    shown = [PHOTOS[0], cv2.resize(PHOTOS[1], (width, height))]
    clip = write_clip(
        tmp_path / "cut.avi", 20, (width, height), codec="MJPG",
        draw=lambda index, size_wh: shown[index >= 10][..., ::-1],
    )  # fmt: skip
    result = run_video(
        clip,
        lambda images: [poses(person(100))] * len(images),
        output_dir=tmp_path / "out",
        tracker=Tracker(),
        smoother=OneEuroSmoother(),
        save_video=False,
        quiet=True,
    )
    ids = [[found["track_id"] for found in line["people"]] for line in lines(result.poses)]
    assert ids == 10 * [[1]] + 2 * [[None]] + 8 * [[2]]
