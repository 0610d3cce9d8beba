"""Small teachers for small students."""

import numpy as np
import pytest
import yaml

from ppose.experiment import Experiment
from ppose.weightfile import save_arrays


@pytest.fixture(params=["top-down", "bottom-up"])
def family(request):
    """Config, overrides of a student and those of its teacher, and the layers that give maps."""
    if request.param == "top-down":
        run, overrides = (request.getfixturevalue(n) for n in ("quickstart", "small_run"))
        layer = "final_conv"
        larger = [*overrides, "model.backbone.width=6"]
    else:
        run, overrides = (request.getfixturevalue(n) for n in ("imhn_quickstart", "small_bottomup"))
        layer = "stacks.0.heads.0"
        larger = [*overrides, "model.stacks=2"]
    return run, overrides, larger, layer


@pytest.fixture
def teacher_of(tmp_path):
    """Makes a teacher's config: a trained network's, with `distill:`."""

    def make(config, overrides, pairs):
        experiment = Experiment.from_file(config, overrides)
        rng = np.random.default_rng(5)
        # Weights as large as trained ones: those of the start give maps of nearly 0.
        arrays = {
            name: rng.normal(0, 0.2, t.shape).astype(np.float32) if t.ndim == 4 else t.numpy()
            for name, t in experiment.model.state_dict().items()
        }
        weights = tmp_path / "teacher.safetensors"
        save_arrays(weights, arrays)
        path = tmp_path / "teacher.yml"
        resolved = experiment.config | {"weights": str(weights), "distill": pairs}
        path.write_text(yaml.safe_dump(resolved), encoding="utf-8")
        return path

    return make
