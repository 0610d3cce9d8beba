"""Export of a network alone, without the wrapper and description of a bundle."""

import copy
from dataclasses import dataclass
from pathlib import Path

from ppose.deploy.bundle import PROGRAM, WEIGHTS
from ppose.export.fold import fold_batch_norms
from ppose.export.int8_program import is_fake_quantized, to_int8
from ppose.export.pdmodel import trace
from ppose.utils.files import atomic_write


@dataclass(frozen=True)
class Exported:
    folder: Path
    size: int
    folded: int
    int8: int


def export_network(network, folder, size_wh, *, batch=None):
    """Exports normalised images (N, 3, H, W) float32 → maps; `size_wh` None is dynamic."""
    width, height = size_wh or (-1, -1)
    made = copy.deepcopy(network).eval()
    folded = fold_batch_norms(made, size_wh)
    program = trace(made, (-1 if batch is None else batch, 3, height, width))
    int8 = to_int8(program) if is_fake_quantized(program) else 0
    files = folder / PROGRAM, folder / WEIGHTS
    with atomic_write(files[0]) as first, atomic_write(files[1]) as second:
        program.save(first, second)
    return Exported(folder, sum(path.stat().st_size for path in files), folded, int8)
