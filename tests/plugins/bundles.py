"""Bundles of the two networks in this repository."""

import pytest
from conftest import ROOT

from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle


def bundle_of(config, folder):
    experiment = Experiment.from_file(ROOT / "configs" / config)
    experiment.load_weights()
    return export_bundle(experiment, folder).folder


@pytest.fixture(scope="session")
def top_down_bundle(tmp_path_factory):
    """Small HRNet of configs/quickstart.yml."""
    return bundle_of("quickstart.yml", tmp_path_factory.mktemp("top_down"))


@pytest.fixture(scope="session")
def bottom_up_bundle(tmp_path_factory):
    """Small IMHN of configs/imhn_quickstart.yml."""
    return bundle_of("imhn_quickstart.yml", tmp_path_factory.mktemp("bottom_up"))
