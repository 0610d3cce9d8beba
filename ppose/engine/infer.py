"""Poses of files, found by the network of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppose.api import load_chosen
from ppose.errors import PposeError
from ppose.experiment import Experiment
from ppose.infer import infer


def infer_with(
    experiment: Experiment, pictures: str, output_dir: str | None = None, **options: Any
) -> None:
    """`ppose.infer.infer` with the network and weights of an experiment.

    Args:
        experiment: network and weights.
        pictures: see `infer`.
        output_dir: None for `infer` in the run's folder.
        options: further arguments of `infer`.
    """
    given = options.get("boxes") or options.get("bbox_file")
    if given and not experiment.crop.uses_boxes:
        raise PposeError(
            f"{experiment.name} is bottom-up: it finds people in the whole picture; leave the "
            "boxes away"
        )
    folder = output_dir or Path(experiment.output_dir) / "infer"
    infer(lambda: load_chosen(experiment), pictures, folder, **options)
