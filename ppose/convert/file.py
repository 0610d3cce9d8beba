"""A PyTorch checkpoint in, a weight file of ppose out."""

from __future__ import annotations

from pathlib import Path

from ppose.convert.checkpoint import read_checkpoint
from ppose.convert.conversion import convert
from ppose.convert.verify import TOLERANCE, largest_difference
from ppose.download import fetch
from ppose.errors import PposeError
from ppose.files import check_writable
from ppose.weightfile import WeightsError, save_arrays

SUFFIXES = (".pdparams", ".safetensors")


def convert_file(
    checkpoint: str | Path,
    output: str | Path,
    source: str | None = None,
    *,
    key: str | None = None,
    verify: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
) -> None:
    """Writes the weights of a PyTorch checkpoint for ppose, and prints what became of them.

    Args:
        checkpoint: path or http(s) address of a PyTorch file, or of a .safetensors file with
            PyTorch's names.
        output: .pdparams or .safetensors file.
        source: name of one of `SOURCES`; None tells it from the tensors' names.
        key: part of the file to take; see `read_checkpoint`.
        verify: compare with the PyTorch network first; needs PyTorch.
        overwrite: `output` may exist.
        verbose: print every tensor.

    Raises:
        WeightsError: unreadable, no network that ppose has, tensors missing, unexpected or of
            another shape, or outputs that differ; nothing is written.
        PposeError, OSError: an output that cannot be written, PyTorch is not installed, or from
            `ppose.download.fetch`.
    """
    output = Path(output)
    _check_output(output, overwrite)
    path = fetch(checkpoint)
    if output.exists() and output.samefile(path):
        raise PposeError(f"{output} is the checkpoint itself; choose another output")
    found = read_checkpoint(path, key)
    try:
        made = convert(found.arrays, source)
    except WeightsError as error:
        raise WeightsError(f"{checkpoint}: {error}\nNothing was written.") from None
    if verbose:
        print(made.table())
    print(f"{checkpoint}: {made.source.name}, {made.variant.title}")
    if found.taken:
        others = f"; not taken: {', '.join(found.others)}" if found.others else ""
        print(f"  taken: {found.taken}{others}")
    print(made.summary())
    if verify:
        difference = largest_difference(made, found.arrays)
        print(f"  largest difference to PyTorch: {difference:.1e} of the largest value")
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{checkpoint}: with these weights ppose's network differs from the published one "
                f"by {difference:.1e}, allowed is {TOLERANCE:.0e}. Nothing was written; please "
                "report it with the source of the checkpoint"
            )
    save_arrays(output, made.arrays)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    if made.variant.config:
        print(f"use it: python tools/eval.py -c {made.variant.config} -o weights={output}")


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix not in SUFFIXES:
        raise PposeError(f"{output}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if output.exists() and not overwrite:
        raise PposeError(f"{output} exists; give --force to overwrite it")
    check_writable(output)
