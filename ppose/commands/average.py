"""Averages the weights of several checkpoints of one network into one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ppose.commands.arguments import add_config
from ppose.utils.errors import PposeError
from ppose.utils.files import check_writable

if TYPE_CHECKING:
    from ppose.experiment import Experiment

EXAMPLES = """\
  ppose average epoch_50.safetensors epoch_51.safetensors epoch_52.safetensors \\
      --output mean.safetensors
  ppose average a.pdparams b.pdparams --output mean.safetensors -c quickstart --norm_batches 100

A mean of weights needs batch-norm statistics of its own: with a config they are measured on its
training data; without one they are averaged too, which is worse. Training states
(checkpoints/step-….safetensors) are taken as well; their optimizer is left out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ppose average`."""
    parser.add_argument("checkpoints", nargs="+", help="weight files, at least two")
    parser.add_argument("--output", required=True, help="a .safetensors file to write")
    add_config(parser, required=False, use="measure batch-norm statistics anew for this: ")
    parser.add_argument(
        "--norm_batches", type=int, default=100, help="training batches for that; default: 100"
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Averages."""
    if args.norm_batches < 1:
        parser.error("--norm_batches starts at 1")
    if args.override and not args.config:
        parser.error("-o needs a config: -c")

    experiment = None
    if args.config:
        from ppose.experiment import Experiment

        experiment = Experiment.from_file(args.config, args.override)
    write_average(args.checkpoints, args.output, experiment, args.norm_batches)


def write_average(
    sources: Sequence[str | Path],
    output: str | Path,
    experiment: Experiment | None = None,
    norm_batches: int = 100,
) -> None:
    """Writes the mean of several weight files.

    Args:
        sources: see `average_files`.
        output: a .safetensors file.
        experiment: batch-norm statistics are measured on its training data; None averages them.
        norm_batches: training batches for that.

    Raises:
        PposeError: `output` has another ending, or is one of the sources.
        WeightsError: see `average_files`; weights of another network than the experiment's.
    """
    from ppose.data.loader import EpochSampler, training_loader
    from ppose.optim.batch_norm import reestimate_batch_norm
    from ppose.weights.average import average_files, common_purpose
    from ppose.weights.loading import set_weights
    from ppose.weights.weight_file import save_arrays

    output = Path(output)
    if output.suffix != ".safetensors":
        raise PposeError(f"{output}: weights are written as .safetensors")
    if any(output.exists() and Path(s).exists() and output.samefile(s) for s in sources):
        raise PposeError(f"{output} is one of the checkpoints; choose another output")
    check_writable(output)
    arrays = average_files(sources)
    norms = "averaged"
    if experiment:
        set_weights(experiment.model, arrays, "the mean")
        data = experiment.training_set()
        sampler = EpochSampler(len(data), experiment.batch_size, 1, experiment.seed)
        with closing(training_loader(data, sampler, experiment.workers)) as loader:
            images = (experiment.normalize(batch["image"]) for batch in loader)
            taken = reestimate_batch_norm(experiment.model, images, norm_batches)
        arrays = {name: tensor.numpy() for name, tensor in experiment.model.state_dict().items()}
        norms = f"measured on {taken} batches"
    trained = experiment.trained_for.metadata() if experiment else common_purpose(sources)
    save_arrays(output, arrays, {"averaged": ", ".join(map(str, sources))} | trained)
    print(f"{output}: mean of {len(sources)} checkpoints, {len(arrays)} tensors, norms {norms}")
