"""Checkpoints of a run: written atomically, verified when read, the newest few kept.

A state is one safetensors file: arrays by name, and in its metadata `ppose`, JSON of the format's
number, the step and the facts, and `sha256` over that text and the names, dtypes, shapes and bytes
of all arrays. Every format has this checksum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppose.utils.errors import PposeError
from ppose.utils.files import NO_ROOM, remove_leftovers
from ppose.weights.weight_file import (
    WeightsError,
    little_endian_arrays,
    read_safetensors,
    save_arrays,
)

_FORMAT = 1
_DEEPEST = 50  # levels of facts; a config has about ten
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


class CheckpointError(PposeError):
    """A training state that cannot be written or read; no other state was touched."""


class NewerFormatError(CheckpointError):
    """A whole state of a later version of ppose."""


@dataclass(frozen=True)
class State:
    """A training state as it was saved.

    Args:
        path: the file that it was read from.
        step: optimizer steps done.
        arrays: name → numbers, in C order.
        facts: what JSON can hold.
    """

    path: Path
    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Checkpoints:
    """The states of one run: `step-00001234.safetensors` in a folder, the newest few of them.

    Args:
        folder: of the states of this run only; made by the first `save`. One process writes there.
        keep: how many states are kept, at least 1. While one is written there is one more.

    Raises:
        ValueError: `keep` below 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1 state")
        self.folder = Path(folder)
        self.keep = keep

    @classmethod
    def of_run(cls, folder: str | Path, keep: int = 2) -> Checkpoints:
        """The states below the folder of a run."""
        return cls(Path(folder) / "checkpoints", keep)

    @property
    def steps(self) -> list[int]:
        """The steps that have a state, ascending; whether it is whole shows when it is read."""
        try:
            # `glob` would take a folder that may not be read for an empty one.
            found = [_NAME.fullmatch(p.name) for p in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        steps = {int(name[1]) for name in found if name}
        return sorted(s for s in steps if self.path(s).is_file())

    @property
    def exists(self) -> bool:
        """Whether there is any state, whole or not."""
        return bool(self.steps)

    def path(self, step: int) -> Path:
        """Where the state of a step is kept."""
        return self.folder / f"step-{step:08d}.safetensors"

    def save(self, step: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
        """Writes a state, then removes the oldest beyond `keep`.

        States beyond `step`, of another and longer run, do not count and stay.

        Args:
            step: optimizer steps done; a state of the same step is replaced.
            arrays: name → numbers of any shape and layout.
            facts: dicts with texts as keys, lists, texts, finite numbers, true, false and null.

        Raises:
            CheckpointError: it could not be written; the states before are as they were.
            OSError: it was written, but an old one could not be removed.
            TypeError: an array that does not hold numbers.
            ValueError: a negative step, or facts that JSON cannot hold.
        """
        if step < 0:
            raise ValueError(f"step is {step}, expected 0 or more")
        plain = little_endian_arrays(arrays)
        text = _json({"format": _FORMAT, "step": step, "facts": dict(facts)})
        metadata = {"ppose": text, "sha256": _checksum(text, plain)}
        path = self.path(step)
        try:
            remove_leftovers(self.folder, "step-*.safetensors")
            save_arrays(path, plain, metadata)
        except OSError as error:
            size = len(text) + sum(a.nbytes for a in plain.values())
            raise CheckpointError(self._not_written(path, error, size)) from error
        for old in [s for s in self.steps if s <= step][: -self.keep]:
            self.path(old).unlink(missing_ok=True)
        return path

    def load(self) -> State | None:
        """The newest undamaged state; None if there are no states.

        A damaged one that is newer is reported on stderr and renamed to `….damaged`, so that it
        is neither counted nor read again.

        Raises:
            CheckpointError: there are states and all are damaged, which are left as they are.
            NewerFormatError: the newest whole one is of a later version of ppose.
            OSError: a state may not be read, which says nothing about its content.
        """
        remove_leftovers(self.folder, "step-*.safetensors")
        faults = {}
        for step in reversed(self.steps):
            path = self.path(step)
            try:
                state = read_state(path)
                if state.step != step:
                    raise CheckpointError(f"{path}: holds the state of step {state.step}")
            except NewerFormatError:
                raise
            except CheckpointError as error:
                faults[path] = str(error)  # its trace would keep the arrays in memory
                continue
            for damaged, fault in faults.items():
                print(f"{fault}\n  {_set_aside(damaged)}; {path.name} is taken", file=sys.stderr)
            return state
        if faults:
            raise CheckpointError(
                f"no training state in {self.folder} is whole:\n  "
                + "\n  ".join(faults.values())
                + "\nStart a new run in another output_dir; weights that this one has saved can "
                "be its pretrain_weights"
            )
        return None

    def _not_written(self, path: Path, error: OSError, size: int) -> str:
        what = f"{path}: the state could not be written ({error.strerror or error}"
        what += f": {error.filename})" if error.filename else ")"
        if error.errno in NO_ROOM:
            what += f"\n  {_no_room(error.errno, size, self.folder)}"
        try:
            steps = self.steps
        except OSError:  # the folder itself is out of reach
            return what
        if not steps:
            return f"{what}\n  there is no earlier state"
        newest = self.path(steps[-1]).name
        return f"{what}\n  no other state was touched; the newest is {newest}: resume from it"


def _no_room(code: int, size: int, folder: Path) -> str:
    needed = f"it needs {size / 1e6:.1f} MB beside the states that are kept"
    if code == errno.EFBIG:
        return f"{needed}, more than one file may have here: see 'ulimit -f' and the file system"
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    return f"{needed}, and {free / 1e6:.1f} MB are free: make room, or choose another output_dir"


def read_state(path: str | Path) -> State:
    """Reads and checks one state.

    Raises:
        CheckpointError: damaged, or no training state.
        NewerFormatError: written by a later version of ppose.
        OSError: the file is not there or may not be read.
    """
    path = Path(path)
    try:
        arrays, metadata = read_safetensors(path)
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CheckpointError(f"{path}: the disk cannot read it ({error.strerror})") from None
    text, checksum = metadata.get("ppose"), metadata.get("sha256")
    if text is None or checksum is None:
        raise CheckpointError(
            f"{path}: not a training state: its metadata lacks 'ppose' or 'sha256'; weights alone "
            "cannot be resumed, but can start a run as pretrain_weights"
        )
    if _checksum(text, arrays) != checksum:
        raise CheckpointError(f"{path}: damaged, its content does not have its checksum")
    step, facts = _parsed(path, text)
    return State(path, step, arrays, facts)


def _parsed(path: Path, text: str) -> tuple[int, dict[str, Any]]:
    """The step and the facts of a text with the right checksum, which anybody can have made."""
    try:
        content = json.loads(text)
        number, step = content["format"], content.get("step")
        counted = type(step) is int and step >= 0
        if number == _FORMAT and counted and _is_shallow(content["facts"]):
            return step, content["facts"]
        newer = type(number) is int and number > _FORMAT
    except (ValueError, TypeError, LookupError, RecursionError):
        newer = False
    if newer:
        raise NewerFormatError(
            f"{path}: written by a newer ppose, in format {number}; this one reads {_FORMAT}. "
            "Update ppose"
        )
    raise CheckpointError(f"{path}: not a training state as ppose writes them")


def _is_shallow(facts: Any) -> bool:
    """Whether these are facts that can be compared and printed: a dict, and not nested deeply."""
    level = [facts]
    for _ in range(_DEEPEST):
        inner = [value for value in level if isinstance(value, dict | list)]
        level = [
            v for value in inner for v in (value.values() if isinstance(value, dict) else value)
        ]
    return isinstance(facts, dict) and not level


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    names = sorted(arrays)
    layout = [(name, arrays[name].dtype.name, arrays[name].shape) for name in names]
    digest = hashlib.sha256(json.dumps([text, layout]).encode())
    for name in names:
        digest.update(arrays[name].reshape(-1).data)
    return digest.hexdigest()


def _json(content: Mapping[str, Any]) -> str:
    fault = next(_unfit("facts", content["facts"]), None)
    if fault:
        raise ValueError(f"a training state cannot hold this: {fault}")
    return json.dumps(content, allow_nan=False)


def _unfit(place: str, value: Any) -> Iterator[str]:
    """What JSON cannot hold, or would bring back as something else."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                yield f"{place} has the key {key!r}, expected text"
            yield from _unfit(f"{place}.{key}", entry)
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _unfit(f"{place}[{i}]", entry)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}, which JSON does not have; use null or a text"
    elif value is not None and not isinstance(value, str | int | float):
        yield f"{place} is a {type(value).__name__}, expected text, a number, a list or a dict"


def _set_aside(path: Path) -> str:
    """Renames a damaged state; says what was done."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError as error:
        return f"it could not be renamed to {aside.name} ({error.strerror})"
    return f"renamed to {aside.name}"
