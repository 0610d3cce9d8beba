"""Post-training quantization: scales from a few batches, no training; and what it costs where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor

from ppose.compression.calibrate import quantize_only
from ppose.compression.quantize import quantized_layers
from ppose.compression.sensitivity import (
    BlockLoss,
    group_layers,
    negative_map_error,
    sensitivity,
    suggest_exclusions,
)
from ppose.evaluation import evaluate
from ppose.experiment import Experiment
from ppose.training.setup import prepare
from ppose.utils.file_lock import claimed
from ppose.utils.files import check_writable, write_json
from ppose.utils.progress import progress
from ppose.weights.weight_file import save_arrays

_IMAGES = 16  # that show how far maps are off


def quantize_trained(
    experiment: Experiment, weights: str | Path | None = None
) -> tuple[Experiment, Path]:
    """Quantizes trained float weights, calibrated on batches of the training data.

    Args:
        experiment: its `quantize` rules, or the defaults if it has none.
        weights: path or URL; None takes the config's or the best of its run.

    Returns:
        the quantized experiment, with the weights set, and `ptq.safetensors` in its folder, which
        the same config with `quantize` loads as `weights`.
    """
    source = str(weights or experiment.chosen_weights())
    output = Path(experiment.output_dir) / "ptq.safetensors"
    check_writable(output)
    quantize = experiment.config["quantize"] or {}
    start = {"pretrain_weights": source, "weights": None, "quantize": quantize, "teacher": None}
    quantized = Experiment(experiment.config | start)
    # A quantized training begins with what calibration alone gives.
    network = prepare(quantized, hooks=[]).state.network
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    facts = {"config": experiment.name, "quantized": source}
    save_arrays(output, arrays, facts | quantized.trained_for.metadata())
    return quantized, output


def measure_quantization(
    experiment: Experiment,
    weights: str | Path | None = None,
    by_block: int | None = None,
    allowed: float = 0.05,
) -> None:
    """Quantizes trained weights and prints AP before and after; writes `ptq.json` beside them.

    Args:
        experiment, weights: see `quantize_trained`.
        by_block: also scores the network with each block alone quantized; blocks are layers whose
            names have this many parts in common.
        allowed: error of the maps that may be made, as a share of their squares, for the proposal
            of blocks to leave out. APs of single blocks differ by chance on few people.
    """
    with claimed(Path(experiment.output_dir) / "ptq"):
        _measure(experiment, weights, by_block, allowed)


def _measure(
    experiment: Experiment, weights: str | Path | None, by_block: int | None, allowed: float
) -> None:
    quantized, path = quantize_trained(experiment, weights)
    network = quantized.model

    def score() -> float:
        estimator = quantized.estimator()
        return evaluate(estimator, quantized.val_dataset, quantized.metric, quiet=True).ap

    with quantize_only(network, ()):
        before = score()
    after = score()
    print(f"float {100 * before:.1f} AP, int8 {100 * after:.1f} AP: {path}")
    facts: dict[str, object] = {"float": before, "int8": after}
    if by_block:
        blocks = group_layers(quantized_layers(network), by_block)
        with progress(total=len(blocks), unit="block", label="sensitivity", quiet=False) as bar:
            rows = sensitivity(network, blocks, _counted(score, bar), before)
        errors = sensitivity(network, blocks, negative_map_error(network, _some_images(quantized)))
        exclude = suggest_exclusions(errors, allowed)
        print(_table(rows, {row.block: row.lost for row in errors}))
        print(f"for an error of maps of at most {allowed:g}: quantize.exclude={exclude}")
        facts |= {
            "blocks": [asdict(row) for row in rows],
            "map_error": {row.block: row.lost for row in errors},
            "exclude": exclude,
        }
    write_json(path.with_suffix(".json"), facts)


def _counted(score: Callable[[], float], bar: Any) -> Callable[[], float]:
    """Moves a progress bar by each scoring."""

    def counted() -> float:
        found = score()
        bar.update(1)
        return found

    return counted


def _some_images(experiment: Experiment) -> list[Tensor]:
    """A few normalised inputs of the training data, without augmentation."""
    samples = experiment.training_set(augmented=False)
    count = min(len(samples), _IMAGES)
    pixels = np.stack([samples[0, i]["image"] for i in range(count)])
    return [experiment.normalize(pixels)]


def _table(rows: list[BlockLoss], errors: dict[str, float]) -> str:
    width = max(len(row.block) for row in rows)
    lines = [f"{'block':<{width}}  layers     AP   lost  map error"]
    lines += [
        f"{row.block:<{width}}  {len(row.layers):>6}  {100 * row.score:5.1f}  {100 * row.lost:5.2f}"
        f"  {errors[row.block]:9.5f}"
        for row in rows
    ]
    return "\n".join(lines)
