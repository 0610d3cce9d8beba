"""A small data set of synthetic people, and a small experiment on it."""

import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from ppose.optim.amp import on_gpu
from ppose.synthetic import write_coco

# Shells start background jobs with Ctrl-C ignored, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a time; that includes each example of one.
settings.register_profile(
    "unhurried", settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("unhurried")

pytest_plugins = ["plugins.bundles", "plugins.teachers", "plugins.torch_checkpoints"]

ROOT = Path(__file__).parents[1]
TRAIN, VAL = 12, 6


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` need a device that Paddle can use."""
    if any(item.get_closest_marker("gpu") for item in items) and not on_gpu():
        skip = pytest.mark.skip(reason="Paddle has no GPU here")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """Folder with `train`, `val` and `annotations` of a few pictures each."""
    folder = tmp_path_factory.mktemp("people")
    write_coco(folder, "train", TRAIN, seed=1, size_wh=(160, 120))
    write_coco(folder, "val", VAL, seed=1, size_wh=(160, 120))
    return folder


def data_of(people):
    """Overrides that make any config use the small data set."""
    return [
        f"train_dataset.image_dir={people}/train",
        f"train_dataset.anno_path={people}/annotations/person_keypoints_train.json",
        f"val_dataset.image_dir={people}/val",
        f"val_dataset.anno_path={people}/annotations/person_keypoints_val.json",
    ]


@pytest.fixture
def small_run(people, tmp_path):
    """Overrides that make `configs/quickstart.yml` a run of seconds; writes below tmp_path."""
    backbone = "{type: HRNet, width: 4, modules: [1, 1, 1], blocks: 1, stem_width: 8, "
    return [
        *data_of(people),
        f"output_dir={tmp_path}/run",
        "model.backbone=" + backbone + "stage1_width: 4, stage1_blocks: 1}",
        "input_size=[64, 64]",
        "weights=null",
        "schedule={type: Constant}",
        "optimizer.lr=2e-3",
        "batch_size=8",
        "epochs=2",
        "workers=0",
        "eval_every=2",
        "log_every=1",
    ]


@pytest.fixture
def small_bottomup(people, tmp_path):
    """Overrides that make `configs/imhn_quickstart.yml` a run of seconds; writes below tmp_path."""
    return [
        *data_of(people),
        f"output_dir={tmp_path}/run",
        "model={width: 16, increase: 0}",
        "input_size=[64, 64]",
        "crop.size=64",
        "weights=null",
        "pretrain_weights=null",
        "schedule={type: Constant}",
        "optimizer.lr=2e-3",
        "batch_size=4",
        "epochs=2",
        "workers=0",
        "eval_every=2",
        "log_every=1",
    ]


@pytest.fixture
def imhn_quickstart():
    """Path of the bottom-up quick start's config."""
    return ROOT / "configs" / "imhn_quickstart.yml"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip(f"a small tmpfs may not be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def quickstart():
    """Path of the quick start's config."""
    return ROOT / "configs" / "quickstart.yml"


@pytest.fixture
def fp16_on_cpu(monkeypatch):
    """Lets fp16 be chosen, which Paddle keeps to GPUs though its operators run anywhere: the loss
    is scaled, the network computes in float32."""

    class Place:
        def is_gpu_place(self):
            return True

    class Tracer:
        _expected_place = Place()

    monkeypatch.setattr("ppose.optim.amp.on_gpu", lambda: True)
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", Tracer)
