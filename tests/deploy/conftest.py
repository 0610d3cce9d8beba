"""The networks that ship, as bundles."""

import pytest
from conftest import ROOT

from ppose.api import chosen_weights
from ppose.checkpoint import load_weights
from ppose.experiment import Experiment
from ppose.export.bundle import export_bundle


def bundle_of(config, folder):
    experiment = Experiment.from_file(ROOT / "configs" / config)
    load_weights(experiment.model, chosen_weights(experiment))
    return export_bundle(experiment, folder).folder


@pytest.fixture(scope="session")
def top_down_bundle(tmp_path_factory):
    """The small HRNet of the quick start."""
    return bundle_of("quickstart.yml", tmp_path_factory.mktemp("top_down"))


@pytest.fixture(scope="session")
def bottom_up_bundle(tmp_path_factory):
    """The small IMHN of the bottom-up quick start."""
    return bundle_of("imhn_quickstart.yml", tmp_path_factory.mktemp("bottom_up"))
