"""Counts the oneDNN convolution kernels that run a model in Paddle, by data type."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ppose.deploy.backends.model_files import find_model
from ppose.deploy.backends.paddle import PaddleSession
from ppose.deploy.backends.settings import BackendError
from ppose.deploy.backends.timing import example_inputs


@dataclass(frozen=True)
class ConvolutionKernels:
    """Convolutions of one run.

    Attributes:
        int8, float32: number of convolutions with weights of this type.
        names: kernel, such as brgconv:avx512_core_vnni → number of calls.
    """

    int8: int
    float32: int
    names: dict[str, int]


def int8_kernels(
    model: str | Path, *, precision: str = "int8", engine: str | None = None
) -> ConvolutionKernels:
    """The kernels that run the convolutions of a model, as reported by oneDNN.

    The model runs once in a subprocess, because oneDNN reads its verbosity at startup. OpenVINO
    contains oneDNN too.

    Args:
        model: file or folder.
        precision: one of `PRECISIONS`.
        engine: see `PaddleSession`.

    Raises:
        BackendError: the model cannot be loaded or run.
    """
    path = find_model(model, "paddle")
    code = f"import sys; from {__name__} import _run_once; _run_once(*sys.argv[1:])"
    root = str(Path(__file__).parents[3])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, "-c", code, str(path), precision, engine or ""],
        env={**os.environ, "ONEDNN_VERBOSE": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if run.returncode:
        last_line = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise BackendError(f"{path}: cannot be run: {''.join(last_line)}")
    found = _CONVOLUTION.findall(run.stdout)
    types = Counter(kind for _, kind in found)
    return ConvolutionKernels(types["s8"], types["f32"], dict(Counter(name for name, _ in found)))


# onednn_verbose,v1,primitive,exec,cpu,convolution,KERNEL,forward_inference,src:… wei:TYPE:…;
# OpenVINO prints wei_TYPE:… instead.
_CONVOLUTION = re.compile(
    r"^onednn_verbose,.*?\bexec,cpu,convolution,([^,]*),.*?\bwei[:_](\w+):", re.M
)


def _run_once(path: str, precision: str, engine: str) -> None:
    session = PaddleSession(path, precision=precision, engine=engine or None)
    session.run(*example_inputs(session))
