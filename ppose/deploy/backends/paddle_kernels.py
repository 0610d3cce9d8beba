"""Which kernels of oneDNN run a model, in Paddle or in the OpenVINO inside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ppose.deploy.backends.paddle import PaddleSession
from ppose.deploy.session import BackendError, find_model
from ppose.deploy.timing import some_inputs


@dataclass(frozen=True)
class Kernels:
    """Convolutions of one run.

    Attributes:
        int8, float32: how many have weights of that type.
        names: kernel → how often it ran, such as brgconv:avx512_core_vnni.
    """

    int8: int
    float32: int
    names: dict[str, int]


def int8_kernels(
    model: str | Path, *, precision: str = "int8", engine: str | None = None
) -> Kernels:
    """Which kernels run the convolutions of a model, as oneDNN itself reports.

    A process of its own runs one input: oneDNN, which OpenVINO has inside too, decides what to
    report when it starts.

    Args:
        model: its file or folder.
        precision: in which it runs.
        engine: as of `PaddleSession`.

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
        said = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise BackendError(f"{path}: cannot be run: {''.join(said)}")
    found = _CONVOLUTION.findall(run.stdout)
    types = Counter(kind for _, kind in found)
    return Kernels(types["s8"], types["f32"], dict(Counter(name for name, _ in found)))


# onednn_verbose,v1,primitive,exec,cpu,convolution,KERNEL,forward_inference,src:… wei:TYPE:…,
# or wei_TYPE:… of OpenVINO's.
_CONVOLUTION = re.compile(
    r"^onednn_verbose,.*?\bexec,cpu,convolution,([^,]*),.*?\bwei[:_](\w+):", re.M
)


def _run_once(path: str, precision: str, engine: str) -> None:
    session = PaddleSession(path, precision=precision, engine=engine or None)
    session.run(*some_inputs(session))
