"""Trainers of small runs."""

from ppose.experiment import Experiment
from ppose.training.setup import prepare


def trainer_of(config, *more, hooks=(), resume=False):
    """A trainer of `config` (path and overrides) with further overrides."""
    path, overrides = config
    return prepare(Experiment.from_file(path, [*overrides, *more]), resume, hooks=list(hooks))
