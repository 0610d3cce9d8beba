"""Reading of PyTorch and safetensors files, and refusal of unsafe files."""

import io
import os
import sys
import zipfile

import numpy as np
import pytest
from hostile_memory import read_apart

from ppose.convert.torch_file import read_checkpoint
from ppose.weights.weight_file import WeightsError, save_arrays

STATE = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "a.bias": np.ones(2, "f4")}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def saved(torch, tmp_path):
    """Saves an object with torch.save, with arrays converted to tensors."""

    def tensors(value):
        if isinstance(value, dict):
            return {k: tensors(v) for k, v in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    def save(content, **options):
        torch.save(tensors(content), tmp_path / "a.pth", **options)
        return tmp_path / "a.pth"

    return save


def assert_state(found, expected=STATE):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


# Without PyTorch


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_safetensors_do_not_need_pytorch(tmp_path, monkeypatch, prefix):
    monkeypatch.setitem(sys.modules, "torch", None)
    save_arrays(tmp_path / "a.safetensors", {prefix + name: a for name, a in STATE.items()})
    assert_state(read_checkpoint(tmp_path / "a.safetensors").arrays)


def test_a_prefix_of_only_some_names_is_kept(tmp_path):
    state = STATE | {"module.a": np.ones(1, "f4")}
    save_arrays(tmp_path / "a.safetensors", state)
    assert_state(read_checkpoint(tmp_path / "a.safetensors").arrays, state)


def test_a_key_is_rejected_for_safetensors(tmp_path):
    save_arrays(tmp_path / "a.safetensors", STATE)
    with pytest.raises(WeightsError, match="leave out --key ema"):
        read_checkpoint(tmp_path / "a.safetensors", "ema")


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_is_not_needed(saved, monkeypatch, zipped):
    path = saved(STATE, _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_state(read_checkpoint(path).arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xd8\xff\xe0", "JPEG"), (b"<html>", "web page")],
)
def test_other_file_types_are_rejected(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "a.pth")


# With PyTorch


@pytest.mark.parametrize("zipped", [True, False])
def test_both_pytorch_formats(saved, zipped):
    assert_state(read_checkpoint(saved(STATE, _use_new_zipfile_serialization=zipped)).arrays)


METADATA = {"epoch": 3, "optimizer": {"state": {}, "lr": [0.1]}}


@pytest.mark.parametrize("key", ["state_dict", "weights", "model_state_dict", "model", "net"])
def test_state_dict_keys(saved, key):
    found = read_checkpoint(saved(METADATA | {key: {f"module.{n}": a for n, a in STATE.items()}}))
    assert_state(found.arrays)
    assert found.key == key
    assert found.other_keys == ("epoch", "optimizer")


def test_precedence_of_keys(saved):
    path = saved(
        {"best_state_dict": {"b": np.ones(3, "f4")}, "state_dict": STATE, "model": "hrnet"}
    )
    assert_state(read_checkpoint(path).arrays)
    assert_state(read_checkpoint(path, "best_state_dict").arrays, {"b": np.ones(3, "f4")})
    with pytest.raises(WeightsError, match="'ema'; keys with tensors: 'best_state_dict', 'state_"):
        read_checkpoint(path, "ema")


def test_several_unusual_keys_are_rejected(saved):
    path = saved({"student": STATE, "teacher": STATE})
    with pytest.raises(WeightsError, match=r"'student', 'teacher'; choose one with --key"):
        read_checkpoint(path)
    assert read_checkpoint(path, "teacher").key == "teacher"


def test_n_averaged_has_no_module_prefix(saved):
    averaged = {"n_averaged": np.array(3)} | {f"module.{n}": a for n, a in STATE.items()}
    assert_state(read_checkpoint(saved(averaged)).arrays, {"n_averaged": np.array(3)} | STATE)


def test_parameters_and_bfloat16(torch, tmp_path):
    state = {
        "a": torch.nn.Parameter(torch.ones(2, 3).t()),
        "b": torch.tensor([1.5, -0.0078125], dtype=torch.bfloat16),
    }
    torch.save(state, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth").arrays
    np.testing.assert_array_equal(found["a"], np.ones((3, 2), "f4"))
    np.testing.assert_array_equal(found["b"], np.array([0x3FC0, 0xBC00], "u2"))


def test_numpy_arrays_in_the_metadata_are_ignored(torch, tmp_path):
    metadata = {"sigmas": np.ones(17, "f4"), "best": np.float64(0.7), "names": np.array(["a", "b"])}
    state = {name: torch.from_numpy(array) for name, array in STATE.items()}
    torch.save({"meta": metadata, "state_dict": state}, tmp_path / "a.pth")
    assert_state(read_checkpoint(tmp_path / "a.pth").arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list, expected a state_dict"),
        ({"epoch": 3, "log": "text"}, "contains no tensors; its keys: epoch, log"),
        (STATE | {"c": 3}, "entry 'c' is a int, expected a tensor"),
        (STATE | {"c": {"d": 1}}, "entry 'c' is a dict, expected a tensor"),
        ({0: np.ones(2)}, "entry 0 is a Tensor"),
        (STATE | {"c": np.ones(2) * 1j}, None),
    ],
)
def test_invalid_content_is_rejected(saved, content, message):
    if message is None:
        # The dtype is checked later, in the conversion.
        assert read_checkpoint(saved(content)).arrays["c"].dtype == np.complex128
        return
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(saved(content))


def test_sparse_quantized_meta_and_expanded_tensors_are_rejected(torch, tmp_path):
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "meta": torch.ones(2, device="meta"),
        "expanded": torch.ones(1).expand(10**6, 10**6),
    }
    for name, tensor in odd.items():
        torch.save({"state_dict": {name: tensor}}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=f"'{name}' is (not a plain|an expanded) tensor"):
            read_checkpoint(tmp_path / "a.pth")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("place", [lambda p: {"meta": p, "state_dict": {}}, lambda p: p])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_rejected_and_not_run(torch, tmp_path, place, zipped):
    canary = tmp_path / "canary"
    torch.save(place(Payload(canary)), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="system.*could run arbitrary code"):
        read_checkpoint(tmp_path / "a.pth")
    assert not canary.exists()


def test_a_pickled_module_is_rejected(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"imports 'torch\.nn\.modules\.linear\.Linear'"):
        read_checkpoint(tmp_path / "a.pth")


def test_torchscript_is_rejected(torch, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.8, 0.99])
def test_truncated_files_are_rejected(saved, zipped, kept):
    path = saved({"a": np.ones(1000, "f4")}, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match="damaged, cut off|unknown kind|empty"):
        read_checkpoint(path)


def test_corrupted_bytes_raise_only_weights_error(torch, tmp_path):
    buffer = io.BytesIO()
    state = {name: torch.from_numpy(array) for name, array in STATE.items()}
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(buffer.getvalue())
        content[rng.integers(len(content))] = rng.integers(256)
        (tmp_path / "a.pth").write_bytes(content)
        try:
            read_checkpoint(tmp_path / "a.pth")
        except WeightsError as error:
            assert str(tmp_path / "a.pth") in str(error)


# Files that are made to crash, to take all memory or to never end


def archive(content, compression=zipfile.ZIP_STORED, **storages):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        made.writestr("a/data.pkl", b"\x80\x02" + content)
        for name, storage in storages.items():
            made.writestr(f"a/data/{name.removeprefix('s')}", storage)
    return buffer.getvalue()


def old(content, keys=b"]."):
    info = b"}(X\x0d\0\0\0little_endian\x88u."
    head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
    return head + b"\x80\x02" + info + b"\x80\x02" + content + b"\x80\x02" + keys


def tensor(count, size=None, stride=1, offset=0, dtype=b"Float"):
    """A dict of one tensor of a storage of `count` numbers."""
    number = [
        b"\x8a\x08" + int(value).to_bytes(8, "little", signed=True)
        for value in (count, offset, count if size is None else size, stride)
    ]
    storage = b"(X\x07\0\0\0storagectorch\n%bStorage\nX\x01\0\0\0000X\x03\0\0\0cpu%btQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage % (dtype, number[0])
    made += number[1] + number[2] + b"\x85" + number[3] + b"\x85\x89}tR"
    return b"}X\x01\0\0\0a" + made + b"s."


NESTED = b"})" + b"\x85" * 400_000 + b"K\x01s."
HOSTILE = {
    "nested key": (archive(NESTED), "has a tuple as a key"),
    "nested key, old": (old(NESTED), "has a tuple as a key"),
    "allocation": (
        archive(b"}X\x01\0\0\0acbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x02\x85Rs."),
        "no tensors",
    ),
    "allocated tensor": (archive(b"ctorch\nTensor\nM\x20\x4eM\x20\x4e\x86R."), "'torch.Tensor'"),
    "compressed": (
        archive(tensor(50_000_000), zipfile.ZIP_DEFLATED, s0=bytes(200_000_000)),
        "is compressed",
    ),
    "equal hashes": (
        archive(b"}(" + b"".join(b"\x8a\x0b%bN" % (i * (2**61 - 1)).to_bytes(11, "little")
                                for i in range(20_000)) + b"u."),
        "more than 64 bits",
    ),
    "no storage": (archive(tensor(4)), "data/0"),
    "short storage": (archive(tensor(4), s0=bytes(12)), "has 12 bytes"),
    "beyond": (archive(tensor(4, 2, 1, 3), s0=bytes(16)), "beyond its storage"),
    "negative stride": (archive(tensor(4, 4, -1), s0=bytes(16)), "no shape"),
    "negative offset": (archive(tensor(4, 4, 1, -1), s0=bytes(16)), "not a natural number"),
    "expanded": (archive(tensor(4, 2**40, 0), s0=bytes(16)), "expanded tensor"),
    "huge storage, old": (old(tensor(2**40), b"]X\x01\0\0\0000a.") + (2**40).to_bytes(8, "little"),
                          "cut off"),
    "no keys, old": (old(tensor(4), b"N."), "damaged"),
    "many files": (b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + bytes(8) + b"\xff" * 4 + bytes(6),
                   "no list of files"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_end_in_one_line(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    found, memory = read_apart("ppose.convert.torch_file", "read_checkpoint", path)
    assert message in found
    assert "\n" not in found
    assert memory < 2 * len(content) + 100e6


def test_the_tensors_of_the_hostile_checkpoints_can_be_read(tmp_path):
    numbers = np.arange(4, dtype="f4")
    (tmp_path / "a.pth").write_bytes(archive(tensor(4, 2, 2, 1), s0=numbers.tobytes()))
    assert_state(read_checkpoint(tmp_path / "a.pth").arrays, {"a": numbers[1::2]})
    storage = (4).to_bytes(8, "little") + numbers.tobytes()
    (tmp_path / "a.pth").write_bytes(old(tensor(4, 2, 2, 1), b"]X\x01\0\0\0000a.") + storage)
    assert_state(read_checkpoint(tmp_path / "a.pth").arrays, {"a": numbers[1::2]})
