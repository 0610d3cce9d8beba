"""Networks alone, without what a bundle puts around them."""

import copy
from dataclasses import dataclass
from pathlib import Path

from ppose.deploy.bundle import PROGRAM, WEIGHTS
from ppose.export.fold import fold_norms
from ppose.export.int8graph import is_fake_quantized, to_int8
from ppose.export.pdmodel import trace
from ppose.files import whole_file


@dataclass(frozen=True)
class Exported:
    folder: Path
    size: int
    folded: int
    int8: int


def export_network(network, folder, size_wh, *, batch=None):
    """Normalised images (N, 3, H, W) float32 in, maps out; `size_wh` None leaves it open."""
    width, height = size_wh or (-1, -1)
    made = copy.deepcopy(network).eval()
    folded = fold_norms(made, size_wh)
    program = trace(made, (-1 if batch is None else batch, 3, height, width))
    int8 = to_int8(program) if is_fake_quantized(program) else 0
    files = folder / PROGRAM, folder / WEIGHTS
    with whole_file(files[0]) as first, whole_file(files[1]) as second:
        program.save(first, second)
    return Exported(folder, sum(path.stat().st_size for path in files), folded, int8)
