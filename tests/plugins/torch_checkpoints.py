"""PyTorch checkpoints as names and arrays, from the golden files and `weights_by_name`."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.weights_by_name import weight

from ppose.convert.conversion import convert
from ppose.weights.weight_file import WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def checkpoint():
    """Name of a golden file → a copy of the checkpoint's arrays, and the golden file."""
    made = {}

    def get(name):
        if name not in made:
            golden = np.load(GOLDEN / f"{name}.npz")
            shapes = map(json.loads, golden["shapes"])
            names = zip(golden["names"].tolist(), shapes, strict=True)
            made[name] = {n: weight(n, shape) for n, shape in names}, golden
        arrays, golden = made[name]
        return dict(arrays), golden

    return get


@pytest.fixture
def lite(checkpoint):
    """Checkpoint of MMPose's Lite-HRNet-18, the smallest one."""
    return checkpoint("mmpose_lite_hrnet_18")[0]


@pytest.fixture
def refusal():
    """Arrays → the message of the error that `convert` raises for them."""

    def message(arrays, source=None):
        with pytest.raises(WeightsError) as error:
            convert(arrays, source)
        return str(error.value)

    return message
