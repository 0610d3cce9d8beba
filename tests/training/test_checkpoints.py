from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ppose.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    NewerFormatError,
    _checksum,
    read_state,
)
from ppose.weights.weight_file import read_metadata, save_arrays

FACTS = {"best": 0.731, "config": {"epochs": 210, "names": ["é", None, True]}}
DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]


def arrays_of(step: int, size: int = 40) -> dict[str, np.ndarray]:
    """What stands for the weights at a step: no other step has them."""
    rng = np.random.default_rng(step)
    return {
        "model.weight": rng.standard_normal((size, 5)).astype(np.float32),
        "optimizer.weight/moment1_0": rng.standard_normal((size, 5)).astype(np.float32),
        "optimizer.beta1_pow": np.float32(rng.random()),
        "rng": rng.integers(0, 255, 7, dtype=np.uint8),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.asarray(array).dtype.newbyteorder("="), name
        assert found[name].shape == np.shape(array), name
        assert found[name].tobytes() == array.tobytes(), name


def filled(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    store = Checkpoints(folder, keep)
    for step in steps:
        store.save(step, arrays_of(step), FACTS)
    return store


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Round trips

numbers = hnp.arrays(
    dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)
)
texts = st.text(max_size=8)
facts = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**10), st.dictionaries(texts, numbers, max_size=4), facts)
def test_a_state_comes_back_as_it_was(tmp_path_factory, step, arrays, facts):
    arrays.pop("__metadata__", None)
    store = Checkpoints(tmp_path_factory.mktemp("round"))
    path = store.save(step, arrays, facts)
    state = store.load()
    assert (state.step, state.path, store.steps) == (step, path, [step])
    assert repr(state.facts) == repr(facts)  # tells -0.0 from 0.0 and 1 from True
    assert_same(state.arrays, arrays)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6, dtype=">i4")[::2],
        np.empty((0, 3), np.float32),
        np.array([np.nan, -np.nan, np.inf, -0.0]),
    ],
)
def test_any_layout_and_every_bit(tmp_path, array):
    Checkpoints(tmp_path).save(1, {"a": array}, {})
    found = Checkpoints(tmp_path).load().arrays["a"]
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.tobytes() == np.ascontiguousarray(array, array.dtype.newbyteorder("=")).tobytes()


def test_the_file_is_plain_safetensors_and_reproducible(tmp_path):
    path = Checkpoints(tmp_path / "a").save(7, arrays_of(7), FACTS)
    assert path == tmp_path / "a" / "step-00000007.safetensors"
    assert_same(
        safetensors.numpy.load_file(path), {k: np.asarray(v) for k, v in arrays_of(7).items()}
    )
    text = json.loads(read_metadata(path)["ppose"])
    assert text == {"format": 1, "step": 7, "facts": FACTS}
    shuffled = dict(reversed(arrays_of(7).items()))
    again = Checkpoints(tmp_path / "b").save(7, shuffled, FACTS)
    assert again.read_bytes() == path.read_bytes()


def test_a_file_is_as_readable_as_any(tmp_path):
    path = Checkpoints(tmp_path).save(7, arrays_of(7), FACTS)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


# Which states are kept


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    store = Checkpoints(tmp_path, keep)
    for done, step in enumerate(range(5, 31, 5), start=1):
        store.save(step, arrays_of(step), FACTS)
        assert store.steps == list(range(5, step + 1, 5))[-keep:]
        assert len(names(tmp_path)) == min(done, keep)
        assert_same(store.load().arrays, arrays_of(step))


def test_steps_are_numbers_not_texts(tmp_path):
    store = filled(tmp_path, 99_999_999, 100_000_000, keep=2)
    assert store.steps == [99_999_999, 100_000_000]
    assert store.load().step == 100_000_000


def test_the_same_step_is_replaced(tmp_path):
    store = filled(tmp_path, 10, 20, keep=2)
    store.save(20, arrays_of(21), {"again": True})
    assert store.steps == [10, 20]
    assert store.load().facts == {"again": True}
    assert_same(store.load().arrays, arrays_of(21))


def test_states_of_a_longer_run_stay(tmp_path):
    filled(tmp_path, 100, 200, 300)
    store = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30, 150):
        store.save(step, arrays_of(step), FACTS)
        assert store.path(step).exists()
    assert store.steps == [100, 150, 200, 300]


def test_files_of_other_names_are_left_alone(tmp_path):
    others = ["best.safetensors", "step-1.safetensors", "step-x.safetensors", "step-00000001.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "step-00000009.safetensors").mkdir()
    store = filled(tmp_path, 1, 2, 3, keep=1)
    assert store.steps == [3]
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    assert store.load().step == 3


def test_no_state_at_all(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        store = Checkpoints(folder)
        assert store.load() is None
        assert store.steps == []
        assert not store.exists
    assert filled(tmp_path, 0).exists


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_at_least_one(tmp_path, keep):
    with pytest.raises(ValueError, match=f"keep is {keep}, expected at least 1"):
        Checkpoints(tmp_path, keep)


# Content that cannot be kept


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"best": float("nan")}, r"facts\.best is nan, which JSON does not have"),
        ({"a": {"b": [0, float("-inf")]}}, r"facts\.a\.b\[1\] is -inf"),
        ({"a": {3: "c"}}, r"facts\.a has the key 3, expected text"),
        ({"a": [np.float32(1)]}, r"facts\.a\[0\] is a float32, expected text, a number"),
        ({"a": {1, 2}}, r"facts\.a is a set"),
    ],
)
def test_facts_that_json_cannot_hold(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path).save(1, arrays_of(1), wrong)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        ({"a": np.array(["text"])}, TypeError, "'a' has dtype <U4, expected numbers"),
        ({"a": np.array([None])}, TypeError, "'a' has dtype object, expected numbers"),
        ({"__metadata__": np.ones(2)}, ValueError, "cannot have an array named"),
    ],
)
def test_arrays_that_cannot_be_kept(tmp_path, array, error, message):
    store = filled(tmp_path, 1)
    with pytest.raises(error, match=message):
        store.save(2, array, FACTS)
    assert names(tmp_path) == ["step-00000001.safetensors"]


def test_a_negative_step(tmp_path):
    with pytest.raises(ValueError, match="step is -1, expected 0 or more"):
        Checkpoints(tmp_path).save(-1, arrays_of(1), FACTS)


# Damage


def assert_older_is_taken(folder: Path, capsys, fault: str) -> None:
    """`folder` has a whole state of step 1 and a damaged one of step 2."""
    store, damaged = Checkpoints(folder), "step-00000002.safetensors"
    state = store.load()
    assert state.step == 1
    assert_same(state.arrays, arrays_of(1))
    told = capsys.readouterr().err
    assert re.search(fault, told), told
    assert f"{folder / damaged}: " in told
    assert f"renamed to {damaged}.damaged; step-00000001.safetensors is taken" in told
    assert store.steps == [1]
    assert (folder / f"{damaged}.damaged").exists()
    assert store.load().step == 1
    assert capsys.readouterr().err == ""
    store.save(2, arrays_of(2), FACTS)
    assert_same(store.load().arrays, arrays_of(2))


def test_every_flipped_bit_is_found(tmp_path):
    path = Checkpoints(tmp_path).save(
        3, {"a": np.arange(5, dtype="f4"), "b": np.full(9, 32, "u1")}, {"name": "é", "ap": 0.5}
    )
    whole = path.read_bytes()
    unnoticed = []
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            read_state(path)
            unnoticed.append(bit)
        except NewerFormatError:
            unnoticed.append(bit)
        except CheckpointError as error:
            assert str(path) in str(error)
    assert unnoticed == []


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_costs_one_state(tmp_path, capsys, seed):
    path = filled(tmp_path, 1, 2).path(2)
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
    path.write_bytes(content)
    assert_older_is_taken(tmp_path, capsys, "damaged|no training state|not a file of weights")


def test_every_truncation_is_found(tmp_path):
    path = Checkpoints(tmp_path).save(3, arrays_of(3, size=2), FACTS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged or cut off|not a file|is empty"):
            read_state(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        read_state(path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999])
def test_a_cut_off_file_costs_one_state(tmp_path, capsys, kept):
    path = filled(tmp_path, 1, 2).path(2)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_older_is_taken(tmp_path, capsys, r"damaged or cut off \(")


class Marker:
    """Writes a file when it is unpickled plainly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def forged(content: object, checksum: bool = True) -> bytes:
    """A state with metadata of the attacker's choice."""
    text = content if isinstance(content, str) else json.dumps(content)
    metadata = {"ppose": text, "sha256": _checksum(text, {}) if checksum else "0" * 64}
    return safetensors.numpy.save({}, metadata)


def pdparams(folder: Path) -> bytes:
    save_arrays(folder / "a.pdparams", {"a": np.ones(3, np.float32)})
    return (folder / "a.pdparams").read_bytes()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(bytes(4096), "of unknown kind", id="zeros"),
        pytest.param(
            cv2.imencode(".png", np.zeros((4, 4), "u1"))[1].tobytes(), "a PNG image", id="PNG"
        ),
        pytest.param(b'{"step": 2}', "but JSON", id="JSON"),
        pytest.param(b"step 2\n", "of unknown kind", id="text"),
        pytest.param(
            lambda folder: pickle.dumps(Marker(folder / "ran")), "a pickle, expected", id="pickle"
        ),
        pytest.param(pdparams, "a pickle, expected a safetensors file", id="pdparams"),
        pytest.param(
            safetensors.numpy.save({"a": np.ones(3)}), "not a training state: its", id="weights"
        ),
        pytest.param(forged({}, checksum=False), "does not have its checksum", id="checksum"),
        pytest.param(forged({}), "not a training state as ppose", id="no facts"),
        pytest.param(forged("[" * 100_000), "not a training state as ppose", id="deep"),
        pytest.param(forged([1]), "not a training state as ppose", id="list"),
        pytest.param(
            forged({"format": "1", "step": 2, "facts": {}}),
            "not a training state",
            id="text as format",
        ),
        pytest.param(
            forged('{"format": 1, "step": Infinity, "facts": {}}'),
            "not a training state",
            id="no step",
        ),
        pytest.param(
            forged({"format": 1, "step": 2, "facts": []}),
            "not a training state",
            id="list of facts",
        ),
        pytest.param(
            forged({"format": 1, "step": 7, "facts": {}}), "the state of step 7", id="another step"
        ),
    ],
)
def test_foreign_content_costs_one_state(tmp_path, capsys, content, fault):
    content = content(tmp_path) if callable(content) else content
    folder = tmp_path / "states"
    filled(folder, 1)
    (folder / "step-00000002.safetensors").write_bytes(content)
    assert_older_is_taken(folder, capsys, fault)
    assert not (tmp_path / "ran").exists()


def test_the_marker_would_be_made(tmp_path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_a_disk_that_cannot_read_costs_one_state(tmp_path, capsys):
    filled(tmp_path, 1).path(2).symlink_to("/proc/self/mem")  # its first page has no memory
    assert_older_is_taken(tmp_path, capsys, "the disk cannot read it")


def test_several_damaged_ones_before_a_whole_one(tmp_path, capsys):
    store = filled(tmp_path, 1, 2, 3)
    store.path(2).write_bytes(b"")
    store.path(3).write_bytes(b"text")
    assert store.load().step == 1
    told = capsys.readouterr().err
    assert "step-00000003.safetensors: not a file of weights" in told
    assert "step-00000002.safetensors: the file is empty" in told
    assert store.steps == [1]


def test_all_damaged(tmp_path, capsys):
    store = filled(tmp_path, 1, 2)
    store.path(1).write_bytes(store.path(1).read_bytes()[:-1])
    store.path(2).write_bytes(b"")
    before = names(tmp_path)
    for _ in range(2):  # a second try finds the same
        with pytest.raises(CheckpointError, match="no training state in .* is whole") as error:
            store.load()
        assert f"{store.path(1)}: damaged or cut off" in str(error.value)
        assert f"{store.path(2)}: the file is empty" in str(error.value)
        assert "pretrain_weights" in str(error.value)
        assert names(tmp_path) == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rest", [{"step": 2, "facts": {}}, {"otherwise": 1}])
def test_a_newer_format_is_not_damage(tmp_path, rest):
    store = filled(tmp_path, 1)
    store.path(2).write_bytes(forged({"format": 2} | rest))
    with pytest.raises(NewerFormatError, match=r"in format 2; this one reads 1\. Update ppose"):
        store.load()
    assert store.steps == [1, 2]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="step-1"):
        read_state(tmp_path / "step-1.safetensors")


# Killed while writing

KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_checkpoints import FACTS, arrays_of
from ppose.training.checkpoints import Checkpoints

store = Checkpoints({folder!r}, keep=2)
step = (store.steps or [0])[-1]
print("ready", flush=True)
while True:
    step += 1
    store.save(step, arrays_of(step, size=30_000), FACTS | {{"double": 2 * step}})
"""


def test_killed_at_any_moment(tmp_path, capsys):
    folder = tmp_path / "states"
    program = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    rng = random.Random(0)
    torn = reached = 0
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.1))
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        assert child.returncode == -signal.SIGKILL
        torn += any(folder.glob(".*.part"))
        store = Checkpoints(folder, keep=2)
        state = store.load()
        if state is None:
            assert reached == 0
            continue
        assert state.step == store.steps[-1] >= reached
        assert state.facts["double"] == 2 * state.step
        assert_same(state.arrays, arrays_of(state.step, size=30_000))
        reached = state.step
    assert reached
    assert torn, "no kill met a write: choose other moments"
    store.save(reached + 1, arrays_of(1), FACTS)
    assert names(folder) == [store.path(s).name for s in (reached, reached + 1)]
    assert capsys.readouterr().err == ""


def test_leftovers_go_with_the_next_save_or_load(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leftover = tmp_path / f".step-00000007.safetensors.{gone.pid}.part"
    running = tmp_path / f".step-00000007.safetensors.{os.getppid()}.part"
    other = tmp_path / f".best.safetensors.{gone.pid}.part"
    store = filled(tmp_path, 1)
    for clean in (store.load, lambda: store.save(2, arrays_of(2), FACTS)):
        for path in (leftover, running, other):
            path.write_bytes(b"half")
        clean()
        assert [p.exists() for p in (leftover, running, other)] == [False, True, True]


# No room, no permission


def assert_untouched(store: Checkpoints, steps: list[int]) -> None:
    assert names(store.folder) == [store.path(s).name for s in steps]
    for step in steps:
        assert_same(read_state(store.path(step)).arrays, arrays_of(step))


def test_a_full_disk(small_disk):
    store = Checkpoints(small_disk, keep=5)
    big = {"a": np.ones(500_000, np.float32)}
    with pytest.raises(CheckpointError, match="there is no earlier state"):
        store.save(1, big, FACTS)
    for step in (1, 2):
        store.save(step, arrays_of(step), FACTS)
    with pytest.raises(CheckpointError) as error:
        store.save(3, big, FACTS)
    text = str(error.value)
    assert str(store.path(3)) in text
    assert os.strerror(errno.ENOSPC) in text
    assert re.search(r"it needs 2\.0 MB .*, and 1\.0 MB are free: make room", text)
    assert "no other state was touched; the newest is step-00000002.safetensors" in text
    assert_untouched(store, [1, 2])
    # A replacement that finds no room leaves what it was to replace.
    with pytest.raises(CheckpointError):
        store.save(2, big, FACTS)
    assert_untouched(store, [1, 2])
    store.save(3, arrays_of(3), FACTS)
    assert_untouched(store, [1, 2, 3])


def test_a_disk_that_fills_up(small_disk):
    """In small steps: what does not fit shows only when a file is closed."""
    store = Checkpoints(small_disk, keep=100)
    with pytest.raises(CheckpointError, match="are free: make room"):
        for step in range(1, 1000):
            store.save(step, arrays_of(step, size=1 + 7 * step), FACTS)
    assert len(store.steps) > 5
    assert names(small_disk) == [store.path(s).name for s in store.steps]
    for step in store.steps:
        assert_same(read_state(store.path(step)).arrays, arrays_of(step, size=1 + 7 * step))


def test_a_limit_of_the_file_size(tmp_path):
    store = filled(tmp_path, 1, 2)
    program = f"""
import resource, sys
import numpy as np
from ppose.training.checkpoints import CheckpointError, Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Checkpoints({str(tmp_path)!r}, keep=1).save(3, {{"a": np.ones(100_000)}}, {{}})
except CheckpointError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    first, second, third = done.stderr.splitlines()
    assert first == f"{store.path(3)}: the state could not be written ({os.strerror(errno.EFBIG)})"
    assert "it needs 0.8 MB" in second
    assert "ulimit -f" in second
    assert "the newest is step-00000002.safetensors: resume from it" in third
    assert_untouched(store, [1, 2])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    store = filled(tmp_path / "states", 1)
    store.folder.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=os.strerror(errno.EACCES)) as error:
            store.save(2, arrays_of(2), FACTS)
        assert "the newest is step-00000001.safetensors" in str(error.value)
        assert "MB are free" not in str(error.value)
        # A damaged state that cannot be renamed is no reason to lose the whole one.
        store.folder.chmod(0o700)
        store.path(2).write_bytes(b"")
        store.folder.chmod(0o500)
        assert store.load().step == 1
        # What may not be looked into is not empty.
        store.folder.chmod(0o300)
        with pytest.raises(PermissionError):
            store.load()
    finally:
        store.folder.chmod(0o700)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    store = Checkpoints(tmp_path / "file" / "states")
    with pytest.raises(CheckpointError, match=os.strerror(errno.ENOTDIR)) as error:
        store.save(1, arrays_of(1), FACTS)
    assert str(store.path(1)) in str(error.value)
    with pytest.raises(NotADirectoryError):
        store.load()
