"""Backend selection: the fastest backend for a model, measured once and cached."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppose.deploy.backends.load import load_session
from ppose.deploy.backends.model_files import find_model, model_files
from ppose.deploy.backends.session import Session, TensorInfo
from ppose.deploy.backends.settings import BACKENDS, PACKAGES, BackendError, cache_folder
from ppose.deploy.backends.timing import example_inputs, time_interleaved
from ppose.utils.cpu import cpu_name, default_threads
from ppose.utils.files import atomic_write, file_hash
from ppose.utils.log import log

CACHE_FORMAT = "ppose backends 2"
RUNS, WARMUP = 5, 2
_MAX_ENTRIES = 100  # in the cache file

# Outputs agree if nine in ten values differ by at most this share of the output's range. The value
# for int8 only detects gross errors: on noise, for which no network is calibrated, rounding errors
# are large.
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}
_AGREEING_SHARE = 0.9


def open_fastest(
    model: str | Path,
    device: str,
    precision: str,
    threads: int | None,
    size_wh: tuple[int, int] | None = None,
    checked: Mapping[str, str] | None = None,
) -> Session:
    """Opens a model with the backend that is fastest at batch size 1.

    The backends are measured at first use. The choice is cached in a file (`cache_path`) and valid
    as long as model, settings, CPU and versions stay the same. Backends that cannot run the model,
    or whose outputs differ from those of the majority, are excluded.

    Args:
        model, device, precision, threads, size_wh, checked: see `open_session`.

    Raises:
        BackendError: no backend can run the model.
    """
    paths = _readable(Path(model), checked)
    if len(paths) == 1:
        ((backend, path),) = paths.items()
        return load_session(path, backend, device, precision, threads)
    key = _key(paths, device, precision, threads, size_wh, checked or {})
    cached = _read_cache()
    choice = cached.get(key, {}).get("backend")
    if isinstance(choice, str) and choice in paths:
        try:
            return load_session(paths[choice], choice, device, precision, threads)
        except BackendError as error:
            log.info(f"measuring again: {error}")
    sessions = _load_all(paths, device, precision, threads)
    times = _measure(sessions, precision, size_wh)
    best = min(times, key=times.__getitem__)
    rest = ", ".join(f"{name} {ms:.1f}" for name, ms in times.items() if name != best)
    log.info(
        f"backend {best}: {times[best]:.1f} ms" + f" ({rest})" * bool(rest) + f", {device}, "
        f"{precision}, {sessions[best].threads} threads"
    )
    _write_cache({**cached, key: {"backend": best, "ms": times}})
    return sessions[best]


def cache_path() -> Path:
    """The cache file: `ppose/backends.json` in XDG_CACHE_HOME, or in `~/.cache`."""
    return cache_folder() / "backends.json"


def _readable(model: Path, checked: Mapping[str, str] | None) -> dict[str, Path]:
    """Installed backend → the model file that it reads."""
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
            f"{model}: no installed backend can read it; pip install one of {packages}"
        )
    return installed


def _load_all(
    paths: dict[str, Path], device: str, precision: str, threads: int | None
) -> dict[str, Session]:
    sessions: dict[str, Session] = {}
    reasons: dict[str, None] = {}  # two backends may refuse a file alike
    for backend, path in paths.items():
        try:
            sessions[backend] = load_session(path, backend, device, precision, threads)
        except BackendError as error:
            reasons[str(error)] = None
    if not sessions:
        raise BackendError("\n".join(reasons))
    for reason in reasons:
        log.info(f"left out: {reason}")
    return sessions


def _measure(
    sessions: dict[str, Session], precision: str, size_wh: tuple[int, int] | None
) -> dict[str, float]:
    """Latency in milliseconds of each backend whose outputs agree with the majority."""
    first = next(iter(sessions.values()))
    arrays = example_inputs(first, size_wh=size_wh)
    inputs: dict[str, list[np.ndarray]] = {}
    results: dict[str, list[np.ndarray]] = {}
    reasons = []
    for name, session in sessions.items():
        try:
            inputs[name] = _reordered(arrays, first.inputs, session.inputs)
            results[name] = _reordered(session.run(*inputs[name]), session.outputs, first.outputs)
        except (BackendError, ValueError) as error:
            reasons.append(str(error))
            log.info(f"left out: {error}")
    if not results:
        raise BackendError("\n".join(reasons))
    agreeing = _agreeing_backends(results, _TOLERANCE[precision])
    for name in results.keys() - agreeing:
        log.info(f"left out: {name} gives different outputs than {', '.join(agreeing)}")
    calls = [lambda s=sessions[n], x=inputs[n]: s.run(*x) for n in agreeing]
    seconds = np.median(time_interleaved(calls, RUNS, WARMUP), axis=0)
    return dict(zip(agreeing, (1000 * seconds).tolist(), strict=True))


def _reordered(
    arrays: list[np.ndarray], tensors: Sequence[TensorInfo], wanted: Sequence[TensorInfo]
) -> list[np.ndarray]:
    """Arrays of `tensors` in the order of `wanted` if both have the same names; else unchanged."""
    by_name = {tensor.name: array for tensor, array in zip(tensors, arrays, strict=True)}
    if by_name.keys() == {tensor.name for tensor in wanted}:
        return [by_name[tensor.name] for tensor in wanted]
    return arrays


def _agreeing_backends(results: dict[str, list[np.ndarray]], tolerance: float) -> list[str]:
    """The largest group of backends with the same outputs; on a tie that of the first backend."""
    groups = [
        [other for other in results if _outputs_agree(results[name], results[other], tolerance)]
        for name in results
    ]
    return max(groups, key=len)


def _outputs_agree(ones: list[np.ndarray], others: list[np.ndarray], tolerance: float) -> bool:
    return len(ones) == len(others) and all(
        _close(one, other, tolerance) for one, other in zip(ones, others, strict=True)
    )


def _close(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    if one.shape != other.shape:
        # The number of boxes may depend on rounding.
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
    return bool(np.mean(np.abs(one - other) <= allowed) >= _AGREEING_SHARE)


def _key(
    paths: dict[str, Path],
    device: str,
    precision: str,
    threads: int | None,
    size_wh: tuple[int, int] | None,
    hashes: Mapping[str, str],
) -> str:
    """Cache key: everything that the choice depends on, in one line."""
    files = dict.fromkeys(file for path in paths.values() for file in model_files(path))
    versions = [f"{name} {_version(name)}" for name in paths]
    facts = [(hashes.get(file.name) or file_hash(file))[:16] for file in files if file.is_file()]
    facts += [device, precision, f"{threads or default_threads()} threads", str(size_wh)]
    return " | ".join([*facts, cpu_name(), *versions])


def _version(backend: str) -> str:
    for package in PACKAGES[backend]:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version"


def _read_cache() -> dict[str, dict[str, Any]]:
    """Key → choice; empty if the file is missing or invalid."""
    try:
        content = json.loads(cache_path().read_text(encoding="utf-8"))
        if content["form"] == CACHE_FORMAT:
            return {k: v for k, v in content["choices"].items() if isinstance(v, dict)}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _write_cache(choices: dict[str, dict[str, Any]]) -> None:
    latest = dict(list(choices.items())[-_MAX_ENTRIES:])
    try:
        with atomic_write(cache_path()) as partial:
            partial.write_text(json.dumps({"form": CACHE_FORMAT, "choices": latest}, indent=1))
    except (OSError, RuntimeError) as error:
        log.debug(f"the choice of the backend cannot be cached: {error}")
