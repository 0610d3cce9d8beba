"""The Python interface: `ppose.load`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ppose.checkpoint import load_weights
from ppose.estimator import PoseEstimator
from ppose.experiment import Experiment


def load(
    config: str | Path, weights: str | Path | None = None, overrides: Iterable[str] = ()
) -> PoseEstimator:
    """An estimator from a config and weights.

    >>> est = ppose.load("configs/quickstart.yml")
    >>> poses = est("dataset/test_image/people.jpg", boxes=[[20, 30, 90, 180]])
    >>> picture = poses.draw(image)

    Args:
        config: YAML file.
        weights: path or URL; None takes `weights` of the config, then the best of the run in
            its `output_dir`.
        overrides: "key=value" texts, as `-o` of the tools takes them.

    Raises:
        ConfigError, FileNotFoundError, WeightsError: each says what is wrong and where.
    """
    return load_chosen(Experiment.from_file(config, overrides), weights)


def load_chosen(experiment: Experiment, weights: str | Path | None = None) -> PoseEstimator:
    """An estimator of an experiment with the weights that it names; see `load`."""
    load_weights(experiment.model, weights or chosen_weights(experiment))
    return experiment.estimator()


def chosen_weights(experiment: Experiment) -> str | Path:
    """The config's weights, else the best of the run; FileNotFoundError if there is neither."""
    best = best_of_run(experiment)
    if experiment.weights or best.is_file():
        return experiment.weights or best
    raise FileNotFoundError(
        f"no weights: {experiment.name} names none and there is no {best}. Train first "
        "(tools/train.py), or give a path or URL: -o weights=PATH_OR_URL"
    )


def best_of_run(experiment: Experiment) -> Path:
    """Where training keeps the weights of the best AP."""
    return Path(experiment.output_dir) / "best.safetensors"
