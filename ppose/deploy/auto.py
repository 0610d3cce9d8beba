"""Which backend runs a model fastest here: measured once, and kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppose.cpu import default_threads
from ppose.deploy.session import (
    BACKENDS,
    PACKAGES,
    BackendError,
    Session,
    Tensor,
    find_model,
    model_files,
    session_of,
)
from ppose.deploy.timing import some_inputs, take_turns
from ppose.files import whole_file
from ppose.log import log

FORM = "ppose backends 2"
RUNS, WARMUP = 5, 2
_KEPT = 100  # choices in the cache's file

# Nine in ten values of an output are that close, as a share of its range. Of int8 it tells wrong
# from right only: on noise, which no network was calibrated for, roundings differ much.
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}
_SHARE = 0.9


def fastest(
    model: str | Path,
    device: str,
    precision: str,
    threads: int | None,
    size_wh: tuple[int, int] | None = None,
    checked: Mapping[str, str] | None = None,
) -> Session:
    """The session of the backend that is fastest at batch 1.

    The choice is measured at first and then found in a small file (`cache_path`), as long as
    model, settings, CPU and versions are the same. Backends that cannot run the model, or give
    other numbers than most, are left out.

    Args:
        model, device, precision, threads, size_wh, checked: as of `open_session`.

    Raises:
        BackendError: no backend runs the model.
    """
    paths = _readers(Path(model), checked)
    if len(paths) == 1:
        ((backend, path),) = paths.items()
        return session_of(path, backend, device, precision, threads)
    key = _key(paths, device, precision, threads, size_wh, checked or {})
    known = _read_cache()
    kept = known.get(key, {}).get("backend")
    if isinstance(kept, str) and kept in paths:
        try:
            return session_of(paths[kept], kept, device, precision, threads)
        except BackendError as error:
            log.info(f"measuring again: {error}")
    sessions = _opened(paths, device, precision, threads)
    times = _measured(sessions, precision, size_wh)
    best = min(times, key=times.__getitem__)
    rest = ", ".join(f"{name} {ms:.1f}" for name, ms in times.items() if name != best)
    log.info(
        f"backend {best}: {times[best]:.1f} ms" + f" ({rest})" * bool(rest) + f", {device}, "
        f"{precision}, {sessions[best].threads} threads"
    )
    _write_cache({**known, key: {"backend": best, "ms": times}})
    return sessions[best]


def cache_path() -> Path:
    """File of the choices: `ppose/backends.json` in XDG_CACHE_HOME, or in `~/.cache`."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "ppose" / "backends.json"


def _readers(model: Path, checked: Mapping[str, str] | None) -> dict[str, Path]:
    """Each backend that is installed and has a file to read."""
    paths, reasons = {}, []
    for backend in BACKENDS:
        try:
            paths[backend] = find_model(model, backend, checked)
        except BackendError as error:
            reasons.append(str(error))
    if not paths:
        raise BackendError("\n".join(dict.fromkeys(reasons)))
    installed = {name: path for name, path in paths.items() if importlib.util.find_spec(name)}
    if not installed:
        packages = ", ".join(PACKAGES[name][0] for name in paths)
        raise BackendError(
            f"{model}: no backend that reads it is installed; pip install one of {packages}"
        )
    return installed


def _opened(
    paths: dict[str, Path], device: str, precision: str, threads: int | None
) -> dict[str, Session]:
    sessions, reasons = {}, []
    for backend, path in paths.items():
        try:
            sessions[backend] = session_of(path, backend, device, precision, threads)
        except BackendError as error:
            reasons.append(str(error))
            log.info(f"left out: {error}")
    if not sessions:
        raise BackendError("\n".join(reasons))
    return sessions


def _measured(
    sessions: dict[str, Session], precision: str, size_wh: tuple[int, int] | None
) -> dict[str, float]:
    """Milliseconds of each backend whose numbers are right."""
    first = next(iter(sessions.values()))
    given = some_inputs(first, size_wh=size_wh)
    inputs: dict[str, list[np.ndarray]] = {}
    results: dict[str, list[np.ndarray]] = {}
    reasons = []
    for name, session in sessions.items():
        try:
            inputs[name] = _sorted(given, first.inputs, session.inputs)
            results[name] = _sorted(session.run(*inputs[name]), session.outputs, first.outputs)
        except (BackendError, ValueError) as error:
            reasons.append(str(error))
            log.info(f"left out: {error}")
    if not results:
        raise BackendError("\n".join(reasons))
    agreeing = _agreeing(results, _TOLERANCE[precision])
    for name in results.keys() - agreeing:
        log.info(f"left out: {name} gives other numbers than {', '.join(agreeing)}")
    calls = [lambda s=sessions[n], x=inputs[n]: s.run(*x) for n in agreeing]
    seconds = np.median(take_turns(calls, RUNS, WARMUP), axis=0)
    return dict(zip(agreeing, (1000 * seconds).tolist(), strict=True))


def _sorted(
    arrays: list[np.ndarray], names: Sequence[Tensor], wanted: Sequence[Tensor]
) -> list[np.ndarray]:
    """Arrays in another order, where the names are the same; else as they are."""
    by_name = {tensor.name: array for tensor, array in zip(names, arrays, strict=True)}
    if by_name.keys() == {tensor.name for tensor in wanted}:
        return [by_name[tensor.name] for tensor in wanted]
    return arrays


def _agreeing(results: dict[str, list[np.ndarray]], tolerance: float) -> list[str]:
    """The largest group that gives the same; of equally large ones that of the first backend."""
    groups = [
        [other for other in results if _same(results[name], results[other], tolerance)]
        for name in results
    ]
    return max(groups, key=len)


def _same(ones: list[np.ndarray], others: list[np.ndarray], tolerance: float) -> bool:
    return len(ones) == len(others) and all(
        _close(one, other, tolerance) for one, other in zip(ones, others, strict=True)
    )


def _close(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    if one.shape != other.shape:
        # A number of boxes may depend on the last digit.
        return one.ndim == other.ndim and one.shape[1:] == other.shape[1:]
    if one.size == 0:
        return True
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return False
    one, other = one[finite], other[finite]
    if one.size == 0:
        return True
    allowed = tolerance * max(np.ptp(one), np.ptp(other)) or tolerance
    return bool(np.mean(np.abs(one - other) <= allowed) >= _SHARE)


def _key(
    paths: dict[str, Path],
    device: str,
    precision: str,
    threads: int | None,
    size_wh: tuple[int, int] | None,
    hashes: Mapping[str, str],
) -> str:
    """What a choice depends on, as one line."""
    files = dict.fromkeys(file for path in paths.values() for file in model_files(path))
    versions = [f"{name} {_version(name)}" for name in paths]
    facts = [(hashes.get(file.name) or _hash(file))[:16] for file in files if file.is_file()]
    facts += [device, precision, f"{threads or default_threads()} threads", str(size_wh)]
    return " | ".join([*facts, _cpu(), *versions])


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _version(backend: str) -> str:
    for package in PACKAGES[backend]:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _read_cache() -> dict[str, dict[str, Any]]:
    """Key → choice; empty if the file is missing or useless."""
    try:
        held = json.loads(cache_path().read_text(encoding="utf-8"))
        if held["form"] == FORM:
            return {k: v for k, v in held["choices"].items() if isinstance(v, dict)}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _write_cache(choices: dict[str, dict[str, Any]]) -> None:
    latest = dict(list(choices.items())[-_KEPT:])
    try:
        with whole_file(cache_path()) as partial:
            partial.write_text(json.dumps({"form": FORM, "choices": latest}, indent=1))
    except (OSError, RuntimeError) as error:
        log.debug(f"the choice of the backend is not kept: {error}")
