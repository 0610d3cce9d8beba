"""Conversion of a PyTorch checkpoint file to a weight file."""

from __future__ import annotations

from pathlib import Path

from ppose.convert.conversion import convert
from ppose.convert.torch_file import read_checkpoint
from ppose.convert.verify import TOLERANCE, largest_difference
from ppose.utils.download import fetch
from ppose.utils.errors import PposeError
from ppose.utils.files import check_writable
from ppose.utils.printable import printable
from ppose.weights.weight_file import WeightsError, save_arrays

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
    """Converts a PyTorch checkpoint to a weight file, and prints a summary.

    Args:
        checkpoint: path or http(s) URL of a PyTorch file, or of a .safetensors file with PyTorch's
            tensor names.
        output: .pdparams or .safetensors file.
        source: name of one of `SOURCES`; None to detect it from the tensor names.
        key: key of the state dict in the file; see `read_checkpoint`.
        verify: first compare with the PyTorch network; needs PyTorch.
        overwrite: overwrite an existing `output`.
        verbose: print every tensor.

    Raises:
        WeightsError: unreadable file, unsupported network, tensors that are missing, unexpected or
            of another shape, or outputs that differ; nothing is written.
        PposeError, OSError: the output cannot be written, `verify` without PyTorch, or raised by
            `ppose.utils.download.fetch`.
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
    print(f"{checkpoint}: {made.source.name}, {made.target.title}")
    if found.key:
        others = printable(", ".join(found.other_keys))
        others = f"; not taken: {others}" if others else ""
        print(f"  taken: {found.key}{others}")
    print(made.summary())
    if verify:
        difference = largest_difference(made, found.arrays)
        print(f"  largest difference to PyTorch: {difference:.1e} of the largest value")
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{checkpoint}: with these weights ppose's network differs from the published one "
                f"by {difference:.1e}, more than {TOLERANCE:.0e}. Nothing was written; please "
                "report this with the source of the checkpoint"
            )
    save_arrays(output, made.arrays)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    if made.target.config:
        print(f"use it: ppose eval -c {made.target.config} -o weights={output}")


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix not in SUFFIXES:
        raise PposeError(f"{output}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if output.exists() and not overwrite:
        raise PposeError(f"{output} exists; give --force to overwrite it")
    check_writable(output)
