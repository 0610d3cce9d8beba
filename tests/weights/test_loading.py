from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from paddle import nn

from ppose.weights.loading import load_pretrained, load_weights
from ppose.weights.weight_file import WeightsError, read_arrays, read_metadata, save_arrays

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]


class Net(nn.Layer):
    """Backbone and head, named as in ppose's models."""

    def __init__(self, joints: int = 17, width: int = 4, depth: int = 1):
        super().__init__()
        self.backbone = nn.Layer()
        self.backbone.stem = nn.Conv2D(3, width, 3)
        self.backbone.norm = nn.BatchNorm2D(width)
        self.backbone.stage = nn.Sequential(*(nn.Conv2D(width, width, 1) for _ in range(depth)))
        self.final_conv = nn.Conv2D(width, joints, 1)


def values(network: nn.Layer) -> dict[str, np.ndarray]:
    return {k: v.numpy().copy() for k, v in network.state_dict().items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def dumped(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


# Reading and writing


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("suffix", [".pdparams", ".pdema"])
def test_reads_files_of_paddle_save(tmp_path, protocol, suffix):
    network = Net()
    paddle.save(network.state_dict(), str(tmp_path / f"a{suffix}"), protocol=protocol)
    assert_same(read_arrays(tmp_path / f"a{suffix}"), values(network))


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_unwraps_a_nested_state_dict(tmp_path, protocol, key):
    network = Net()
    nested = {key: network.state_dict(), "epoch": 3, "rate": np.float32(0.1), "optimizer": {"a": 1}}
    paddle.save(nested, str(tmp_path / "a.pdparams"), protocol=protocol)
    assert_same(read_arrays(tmp_path / "a.pdparams"), values(network))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_layout_and_protocol(tmp_path, protocol, dtype):
    base = (np.arange(24) % 2).astype(dtype).reshape(2, 3, 4)
    arrays = {
        "c": base,
        "fortran": np.asfortranarray(base),
        "strided": base[:, ::-1, ::2],
        "swapped": base.astype(np.dtype(dtype).newbyteorder()),
        "empty": base[:0],
        "scalar": np.array(1, dtype),
    }
    found = read_arrays(dumped(tmp_path / "a.pdparams", OrderedDict(arrays), protocol))
    assert_same(found, {k: a.astype(dtype) for k, a in arrays.items()})
    assert all(a.flags.c_contiguous and a.flags.writeable for a in found.values())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_old_numpy_module_names(tmp_path, protocol):
    content = pickle.dumps({"a": np.ones((2, 3), "f4")}, protocol)
    new = b"numpy._core.multiarray" if b"numpy._core.m" in content else b"numpy._core.numeric"
    old = new.replace(b"._core", b".core")
    short = bytes([len(new)]) + new
    content = content.replace(short, bytes([len(old)]) + old).replace(new, old)
    # Drops the frame opcode, which contains the length.
    content = content[:2] + content[11:] if protocol >= 4 else content
    assert old in content
    assert new not in content
    (tmp_path / "a.pdparams").write_bytes(content)
    assert_same(read_arrays(tmp_path / "a.pdparams"), {"a": np.ones((2, 3), "f4")})


def test_python_2_pickles(tmp_path):
    array = np.array([1.5, -2.0, 1e30], "<f4")
    raw = array.tobytes()
    # In Python 2, bytes and text are both str, opcode U.
    content = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    (tmp_path / "a.pdparams").write_bytes(content)
    assert_same(read_arrays(tmp_path / "a.pdparams"), {"a": array})


numbers = hnp.arrays(
    dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), numbers, min_size=1, max_size=4))
def test_round_trip(tmp_path_factory, arrays):
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    arrays.pop("__metadata__", None)
    save_arrays(path, arrays, {"epoch": "3"})
    if arrays:
        found = read_arrays(path)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert read_metadata(path) == {"epoch": "3"}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pdparams"])
@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.arange(6, dtype=">i4")[::2], np.float32(2)]
)
def test_saves_any_layout(tmp_path, array, name):
    save_arrays(tmp_path / name, {"a": array})
    np.testing.assert_array_equal(read_arrays(tmp_path / name)["a"], array)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), numbers, min_size=1, max_size=4))
def test_a_pdparams_file_is_readable_by_paddle(tmp_path_factory, arrays):
    path = tmp_path_factory.getbasetemp() / "round.pdparams"
    save_arrays(path, arrays)
    assert_same(read_arrays(path), arrays)
    by_paddle = paddle.load(str(path), return_numpy=True)
    assert by_paddle.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(by_paddle[name], array)


def test_paddle_loads_a_network_from_a_pdparams_file(tmp_path):
    source, network = Net(), Net()
    save_arrays(tmp_path / "a.pdparams", values(source))
    assert network.set_state_dict(paddle.load(str(tmp_path / "a.pdparams"))) == ([], [])
    assert_same(values(network), values(source))


def test_metadata_is_rejected_for_pdparams(tmp_path):
    with pytest.raises(ValueError, match="has no metadata"):
        save_arrays(tmp_path / "a.pdparams", {"a": np.ones(2)}, {"epoch": "3"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.array([None]), np.array(["a"]), np.array([1j])])
def test_saving_other_data_than_numbers_is_rejected(tmp_path, bad):
    with pytest.raises(TypeError, match=r"'a' has dtype .*, expected numbers"):
        save_arrays(tmp_path / "a.safetensors", {"a": bad})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_existing_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_arrays(path, {"a": np.zeros(3)})

    def broken(_: int) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk"):
        save_arrays(path, {"a": np.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    np.testing.assert_array_equal(read_arrays(path)["a"], np.zeros(3))


def test_safetensors_bfloat16(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    bits = np.array([1.5, -0.0078125], "<f4").view("<u4") >> 16
    content = struct.pack("<Q", len(header)) + header + bits.astype("<u2").tobytes()
    (tmp_path / "a.safetensors").write_bytes(content)
    assert_same(read_arrays(tmp_path / "a.safetensors"), {"a": np.array([1.5, -0.0078125], "f4")})


# Files that are not weight files


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (zipped, "zip archive or a PyTorch"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "old PyTorch"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"{'a': 1}", "JSON"),
        (b"\x00\x01\x02", r"unknown kind \(begins with b'\\x00\\x01\\x02'\)"),
        (pickle.dumps([1, 2]), "a list, expected a dict"),
        (pickle.dumps({}), "no tensors"),
        (pickle.dumps({"a": 3}), "entry 'a' is a int, expected an array"),
        (pickle.dumps({3: np.ones(2)}), "has a int as a key, expected text"),
        (pickle.dumps({"a": np.ones(2), "b": {}}), "entry 'b' is a dict"),
        (safetensors.numpy.save({}), "no tensors"),
    ],
)
def test_other_file_types_are_rejected(tmp_path, content, message):
    path = tmp_path / "a.pdparams"
    path.write_bytes(content(tmp_path / "b") if callable(content) else content)
    with pytest.raises(WeightsError, match=message) as error:
        read_arrays(path)
    assert str(path) in str(error.value)


def test_exported_models_are_rejected(tmp_path):
    (tmp_path / "inference.pdiparams").write_bytes(bytes(64))
    with pytest.raises(WeightsError, match="exported model"):
        read_arrays(tmp_path / "inference.pdiparams")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_truncated_files_are_rejected(tmp_path, kept, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pdparams":
        paddle.save(Net().state_dict(), str(path))
    else:
        save_arrays(path, values(Net()))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match=r"damaged or cut off.*get the file again"):
        read_arrays(path)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_corrupted_bytes_raise_only_weights_error(tmp_path_factory, index, byte):
    content = bytearray(pickle.dumps({"a": np.ones((2, 2), "f4"), "b": np.ones(3)}, 2))
    content[index % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "flipped.pdparams"
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        assert all(isinstance(a, np.ndarray) for a in read_arrays(path).values())


def test_ambiguous_state_dicts_are_rejected(tmp_path):
    state = {"a": np.ones(2)}
    for nested in (
        {"model": state, "state_dict": state},
        {"model": state, "ema": state},
        {"student": state},
    ):
        with pytest.raises(WeightsError, match="save that one alone"):
            read_arrays(dumped(tmp_path / "a.pdparams", nested))


# Hostile pickles


class Call:
    """Pickles as a call of `function` with `arguments`, and optionally a state."""

    def __init__(self, function, arguments=(), state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def command(canary: Path) -> str:
    return f"touch '{canary}'"


def code(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w')"


# Protocol 2 uses the module names of Python 2.
BUILTINS = r"(builtins|__builtin__)"

HOSTILE = {
    "os.system": (lambda c: Call(os.system, (command(c),)), r"posix\.system"),
    "eval": (lambda c: Call(eval, (code(c),)), rf"{BUILTINS}\.eval"),
    "exec": (lambda c: Call(exec, (code(c),)), rf"{BUILTINS}\.exec"),
    "popen": (
        lambda c: Call(subprocess.Popen, (["touch", str(c)],)),
        r"(subprocess|commands)\.Popen",
    ),
    "chain": (
        lambda c: Call(getattr, (Call(__import__, ("os",)), "system")),
        rf"{BUILTINS}\.(getattr|__import__)",
    ),
    "in a key": (lambda c: {("k", Call(os.system, (command(c),))): 1}, r"posix\.system"),
    "deep": (
        lambda c: {"a": [({"b": OrderedDict(x=[Call(os.system, (command(c),))])},)]},
        r"posix\.system",
    ),
    "next to arrays": (
        lambda c: {"a": np.ones(2), "b": Call(os.system, (command(c),))},
        r"posix\.system",
    ),
    "object array": (
        lambda c: {"a": np.array([Call(os.system, (command(c),))], dtype=object)},
        r"dtype 'O8'|posix\.system",
    ),
    "array of a class": (
        lambda c: Call(np.ones(1).__reduce__()[0], (subprocess.Popen, (0,), b"b")),
        r"(subprocess|commands)\.Popen",
    ),
    "state": (lambda c: Call(OrderedDict, (), {"items": Call(eval, (code(c),))}), r"eval"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(tmp_path, name, protocol):
    make, message = HOSTILE[name]
    canary = tmp_path / "canary"
    path = dumped(tmp_path / "a.pdparams", make(canary), protocol)
    with pytest.raises(WeightsError, match=message):
        read_arrays(path)
    assert not canary.exists()


def test_the_pickles_are_hostile(tmp_path):
    """With plain pickle.loads, the pickles above run their code."""
    for name in ("os.system", "eval", "exec", "popen", "in a key", "deep", "object array"):
        canary = tmp_path / name
        found = pickle.loads(pickle.dumps(HOSTILE[name][0](canary)))
        if isinstance(found, subprocess.Popen):
            found.wait()
        assert canary.exists(), name


NDARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\n"


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        # INST and OBJ import too; a dotted name could access attributes of a module.
        (b"(X\x01\x00\x00\x00aios\nsystem\n.", r"os\.system"),
        (b"(cos\nsystem\nS'touch %s'\no.", r"os\.system"),
        (b"cnumpy\nndarray.__class__\nS'touch %s'\n\x85R.", r"numpy\.ndarray\.__class__"),
        (b"cnumpy.core.multiarray\nscalar.__globals__\n.", "__globals__"),
        # Invalid class, dtype or content of an array.
        (RECONSTRUCT + b"cbuiltins\ndict\nK\x00\x85C\x01b\x87R.", "another class than"),
        (RECONSTRUCT + DTYPE + b"K\x00\x85C\x01b\x87R.", "another class than"),
        (DTYPE + b"X\x02\x00\x00\x00O8\x85R.", "dtype 'O8'"),
        (DTYPE + b"X\x02\x00\x00\x00V8\x85R.", "dtype 'V8'"),
        (DTYPE + b"X\x03\x00\x00\x00S10\x85R.", "dtype 'S10'"),
        (DTYPE + NDARRAY + b"\x85R.", "damaged|dtype"),
        (RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R(K\x01)NK\x00]tb.", "not plain numbers"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "'rot13'"),
        # Replacements cannot be modified to affect later files.
        (RECONSTRUCT + b"N}X\x08\x00\x00\x00__code__K\x01s\x86b.", "damaged"),
        (b"Pname\n.", "objects outside the file"),
        (b"\x82\x01.", r"opcode b'\\x82'"),
        (b"S'a'\n.", "opcode b'S'"),
        (b"K\x01r\xff\xff\xff\xff.", "contains a int"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
    ],
)
def test_hostile_opcodes(tmp_path, opcodes, message):
    canary = tmp_path / "canary"
    opcodes = opcodes.replace(b"%s", str(canary).encode())
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x04" + opcodes)
    with pytest.raises(WeightsError, match=message):
        read_arrays(tmp_path / "a.pdparams")
    assert not canary.exists()
    assert_same(read_arrays(dumped(tmp_path / "b.pdparams", {"a": np.ones(2)})), {"a": np.ones(2)})


def test_a_huge_shape_without_content_is_rejected(tmp_path):
    content = pickle.dumps({"a": np.zeros(3, "f4")}, 2).replace(
        b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"
    )
    (tmp_path / "a.pdparams").write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_arrays(tmp_path / "a.pdparams")


# Hostile safetensors


def entry(dtype="F32", shape="[2]", offsets="[0,8]"):
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f'{{"a":{entry(shape=str([1] * 65 + [2]))}}}', "no shape"),
        (f'{{"a":{entry(shape="[0, 4611686018427387904]", offsets="[0,0]")}}}', "damaged"),
        (f'{{"a":{entry(shape="[-2]")}}}', "damaged"),
        (f'{{"a":{entry(shape="[4294967296, 4294967296]")}}}', "damaged"),
        (f'{{"a":{entry(shape="[true]")}}}', "damaged"),
        (f'{{"a":{entry(offsets="[-8,0]")}}}', "damaged"),
        (f'{{"a":{entry(offsets="[8,0]")}}}', "damaged"),
        (f'{{"a":{entry(offsets="[0,18446744073709551615]")}}}', "damaged"),
        (f'{{"a":{entry()},"b":{entry()}}}', "damaged"),
        (f'{{"a":{entry()},"a":{entry()}}}', "has a name twice"),
        (f'{{"a":{entry(dtype="F31")}}}', "damaged"),
        (f'{{"a":{entry(dtype="I4")}}}', "damaged"),
        (f'{{"a":{entry(dtype="F8_E4M3", shape="[8]")}}}', "F8_E4M3, not supported"),
        (f'{{"__metadata__":[1],"a":{entry()}}}', "damaged"),
        ('{"a":' * 5000, "damaged"),
        ('{"a":null}', "damaged"),
        (f'{{"a":{entry()}' + " " * (1 << 23) + "}", "its header has 8388"),
    ],
)
def test_hostile_safetensors_are_rejected(tmp_path, header, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    with pytest.raises(WeightsError, match=message) as error:
        read_arrays(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with contextlib.suppress(WeightsError):
        assert read_metadata(path) == {}


# Loading into a network


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_load_weights_sets_every_tensor(tmp_path, suffix):
    source, network = Net(), Net()
    source.backbone.norm._mean.set_value(np.arange(4, dtype="f4"))
    if suffix == ".pdparams":
        paddle.save(source.state_dict(), str(tmp_path / "a.pdparams"))
    else:
        save_arrays(tmp_path / "a.safetensors", values(source))
    report = load_weights(network, tmp_path / f"a{suffix}")
    assert_same(values(network), values(source))
    assert set(report.loaded) == set(values(network))
    assert not report.not_loaded
    assert not report.unused
    assert str(report) == f"{tmp_path / f'a{suffix}'}: loaded 10 of 10 tensors"


def test_load_weights_reports_all_differences(tmp_path):
    state = values(Net(joints=21))
    state["backbone.stem.wieght"] = state.pop("backbone.stem.weight")
    del state["backbone.norm.bias"]
    network = Net()
    before = values(network)
    with pytest.raises(WeightsError) as error:
        load_weights(network, dumped(tmp_path / "a.pdparams", state))
    text = str(error.value)
    assert "does not fit Net (10 tensors expected)" in text
    assert "2 missing: backbone.stem.weight (the file has backbone.stem.wieght), " in text
    assert "1 unexpected: backbone.stem.wieght" in text
    assert "2 of another shape: final_conv.weight ([17, 4, 1, 1] in the network, [21, 4," in text
    assert "pretrain_weights" in text
    assert_same(values(network), before)


def test_load_weights_of_the_backbone(tmp_path):
    source, network = Net(joints=21), Net()
    head = network.final_conv.weight.numpy()
    report = load_weights(network, dumped(tmp_path / "a.pdparams", values(source)), part="backbone")
    np.testing.assert_array_equal(network.final_conv.weight.numpy(), head)
    np.testing.assert_array_equal(
        network.backbone.stem.weight.numpy(), source.backbone.stem.weight.numpy()
    )
    assert (
        list(report.not_loaded) == list(report.unused) == ["final_conv.weight", "final_conv.bias"]
    )
    with pytest.raises(WeightsError, match=r"2 missing: backbone\.stage\.1\.weight"):
        load_weights(Net(depth=2), tmp_path / "a.pdparams", part="backbone")
    with pytest.raises(WeightsError, match="Linear has no tensors under 'backbone"):
        load_weights(nn.Linear(1, 1), tmp_path / "a.pdparams", part="backbone")


@pytest.mark.parametrize("wanted", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "float16", "float64", "bfloat16"])
def test_floats_are_cast_to_the_dtype_of_the_parameter(tmp_path, stored, wanted):
    layer = nn.Linear(2, 1)
    layer.to(dtype=wanted)
    numbers = np.array([[1.5], [-0.25]], "f4")
    as_stored = (numbers.view("u4") >> 16).astype("u2") if stored == "bfloat16" else numbers
    as_stored = as_stored if stored == "bfloat16" else numbers.astype(stored)
    state = {"weight": as_stored, "bias": as_stored[0]}
    load_weights(layer, dumped(tmp_path / "a.pdparams", state))
    assert layer.weight.dtype == getattr(paddle, wanted)
    np.testing.assert_array_equal(layer.weight.astype("float32").numpy(), numbers)


def test_bfloat16_file_of_paddle(tmp_path):
    source, layer = nn.Linear(2, 1), nn.Linear(2, 1)
    source.to(dtype="bfloat16")
    paddle.save(source.state_dict(), str(tmp_path / "a.pdparams"))
    load_weights(layer, tmp_path / "a.pdparams")
    np.testing.assert_array_equal(layer.weight.numpy(), source.weight.astype("float32").numpy())


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.array([[1], [2]], "i8"), "'weight' is int64, expected float32"),
        (np.array([[True], [False]]), "'weight' is bool, expected float32"),
        (np.array([[np.nan], [np.inf]], "f4"), "2 of 2 values of 'weight' are not finite"),
        (np.array([[1e300], [0]]), "'weight' has values outside the range of float32"),
    ],
)
@pytest.mark.parametrize("load", [load_weights, load_pretrained])
def test_invalid_values_do_not_change_the_network(tmp_path, load, weight, message):
    network = nn.Layer()
    network.backbone = nn.Linear(2, 1)
    before = values(network)
    state = {"backbone.bias": np.array([7], "f4"), "backbone.weight": weight}
    with pytest.raises(WeightsError, match=message.replace("'weight", "'backbone.weight")):
        load(network, dumped(tmp_path / "a.pdparams", state))
    assert_same(values(network), before)


def test_integer_buffers(tmp_path):
    network = nn.Layer()
    network.register_buffer("count", paddle.zeros([2], "int32"))
    load_weights(network, dumped(tmp_path / "a.pdparams", {"count": np.array([3, 4], "i8")}))
    assert network.count.tolist() == [3, 4]
    with pytest.raises(WeightsError, match="outside the range of int32"):
        load_weights(network, dumped(tmp_path / "a.pdparams", {"count": np.array([3, 1 << 40])}))


# Pretrained weights


def backbone_only(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        prefix + k.removeprefix("backbone."): v
        for k, v in state.items()
        if k.startswith("backbone.")
    }


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_pretrained_backbone(tmp_path, prefix):
    source, network = Net(), Net()
    head = network.final_conv.weight.numpy()
    state = backbone_only(values(source), prefix) | {"fc.weight": np.ones((4, 1000), "f4")}
    report = load_pretrained(network, dumped(tmp_path / "a.pdparams", state))
    assert_same(backbone_only(values(network), ""), backbone_only(values(source), ""))
    np.testing.assert_array_equal(network.final_conv.weight.numpy(), head)
    assert str(report) == (
        f"{tmp_path / 'a.pdparams'}: loaded 8 of 10 tensors; not loaded: final_conv.weight (not in "
        "the file), final_conv.bias (not in the file); unused: fc.weight"
    )


def test_pretrained_with_another_head(tmp_path):
    source, network = Net(joints=21), Net()
    report = load_pretrained(network, dumped(tmp_path / "a.pdparams", values(source)))
    assert report.not_loaded == {
        "final_conv.weight": "[17, 4, 1, 1] in the network, [21, 4, 1, 1] in the file",
        "final_conv.bias": "[17] in the network, [21] in the file",
    }
    np.testing.assert_array_equal(
        network.backbone.norm.weight.numpy(), source.backbone.norm.weight.numpy()
    )


def test_pretrained_with_the_same_head_loads_all(tmp_path):
    source, network = Net(), Net()
    report = load_pretrained(network, dumped(tmp_path / "a.pdparams", values(source)))
    assert_same(values(network), values(source))
    assert len(report.loaded) == 10
    assert not report.not_loaded


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"width": 8}, r"10 of another shape: .*\[4, 3, 3, 3\] in the network, \[8, 3, 3, 3\] in"),
        ({"depth": 1}, r"2 missing: backbone\.stage\.1\.weight"),
        ({"depth": 3}, r"2 unexpected: backbone\.stage\.2\.weight"),
    ],
)
def test_pretrained_needs_the_same_backbone(tmp_path, prefix, source, message):
    network = Net(depth=2)
    before = values(network)
    state = backbone_only(values(Net(**{"depth": 2} | source)), prefix)
    with pytest.raises(WeightsError, match=message):
        load_pretrained(network, dumped(tmp_path / "a.pdparams", state))
    assert_same(values(network), before)


def test_pretrained_without_a_backbone_is_rejected(tmp_path):
    path = dumped(tmp_path / "a.pdparams", {"encoder.0.weight": np.ones(3, "f4")})
    with pytest.raises(WeightsError, match=r"8 missing: .* and 4 more"):
        load_pretrained(Net(), path)


def test_long_lists_are_shortened(tmp_path):
    state = backbone_only(values(Net()), "") | {f"head{i}.w": np.ones(1, "f4") for i in range(9)}
    report = load_pretrained(Net(), dumped(tmp_path / "a.pdparams", state))
    assert str(report).endswith("unused: head0.w, head1.w, head2.w, head3.w and 5 more")


def test_missing_source(tmp_path):
    dumped(tmp_path / "model.pdparams", {})
    with pytest.raises(FileNotFoundError, match=r"near names there: model\.pdparams"):
        load_weights(Net(), tmp_path / "modle.pdparams")
