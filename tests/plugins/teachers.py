"""Fixtures: small students and their teachers."""

import pytest
import yaml
from tiny_quantized_networks import large_weights

from ppose.experiment import Experiment
from ppose.weights.weight_file import save_arrays


@pytest.fixture(params=["top-down", "bottom-up"])
def family(request):
    """Config, overrides of a student and of its teacher, and the layer that outputs the maps."""
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
    """Creates the config of a teacher: that of a trained network, with `distill:`."""

    def make(config, overrides, pairs):
        experiment = Experiment.from_file(config, overrides)
        arrays = large_weights(experiment.model)
        weights = tmp_path / "teacher.safetensors"
        save_arrays(weights, arrays)
        path = tmp_path / "teacher.yml"
        resolved = experiment.config | {"weights": str(weights), "distill": pairs}
        path.write_text(yaml.safe_dump(resolved), encoding="utf-8")
        return path

    return make
