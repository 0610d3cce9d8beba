"""YAML that is made to hurt: configs, overrides, bundles' and detectors' descriptions.

A valid description gets values, keys and syntax that it should not have, in random places.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from hostile.harness import Reader
from ppose.config import dump_config, load_config, read_yaml
from ppose.config.ranges import type_hints
from ppose.config.registry import build
from ppose.deploy.bundle import DESCRIPTION, ONNX, Bundle
from ppose.deploy.detection.infer_cfg import read_detector_yml, read_infer_cfg
from ppose.experiment import Config, Experiment
from ppose.utils.shipped import shipped

BUNDLES = shipped("configs") / "weights" / "bundles"
DETECTOR = {
    "size_wh": [416, 416],
    "interp": 2,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "boxes": "xyxy",
    "nms_iou": 0.6,
    "labels": ["person", "dog"],
}
INFER_CFG = {
    "mode": "paddle",
    "draw_threshold": 0.5,
    "arch": "GFL",
    "Preprocess": [
        {"type": "Resize", "target_size": [320, 320], "keep_ratio": False, "interp": 2},
        {"type": "NormalizeImage", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
        {"type": "Pad", "size": 640, "fill_value": [114.0, 114.0, 114.0]},
        {"type": "PadStride", "stride": 32},
        {"type": "Permute"},
    ],
    "label_list": ["person", "dog"],
    "NMS": {"nms_threshold": 0.6},
    "fpn_stride": [8, 16, 32, 64],
}


class Raw(str):
    """YAML in place of a value."""


# Values that can be parsed, and those that cannot or should not.
PLAIN = [
    *("true", "off", "null", "~", "''", "x", "=", "0", "-1", "1", "2", "16", "17", "255", "256"),
    *("0x7fffffff", "017", "1_0", "1:30", "0.5", "1.0", "-0.0", "1.5", "1e-10", "5e-324", "1e308"),
    *("-1e308", "1e999", ".inf", "-.inf", ".nan", "2147483648", "9223372036854775808", "9" * 45),
    *("2024-01-01", "2024-13-45", "'\\'", '"\\x1b[31m"', '"\\u202e"', '"\\n\\n"', "ünïcödé"),
    *("${epochs}", "${codec}", "${nothing}", "${", "${}", "${a.b.c}", "${here}"),
    *("/dev/zero", "/dev/stdin", "..", "/", ".", "~/x", "http://a..b/c", "~nouser/x", "x" * 300),
    *("coco17", "simplepose", "Heatmap", "BoxCrop", "HRNet", "Skeleton", "object", "Grouping"),
    *("[1, 2]", "[64, 64]", "[0, 0]", "[]", "{}", "[[]]", "[1.0, 1.0, 1.0]", "[x, y]"),
]  # fmt: skip
ODD = [
    *("<<", "-", "?", "*", "&a", "!", "!!str", "|", "'" + "y" * 100_000 + "'", "9" * 5000),
    *("!!bool x", "!!int x", "!!float x", "!!timestamp x", "!!binary '@'", "!!null x", "!!set {a}"),
    *("!!omap [a: 1]", "!!pairs [a]", "!!python/object/apply:os.system ['true']", "!mine x"),
    *('"\\0"', '"\\ud800"', '"', "'", "{", "[", "]", "190:20:30.15", "'${codec.size_wh.0}'"),
]
KEYS = [
    *("type", "_base_", "name", "''", "1", "null", "true", "1.5", "x", "self", "__class__", "<<"),
    *("skeleton", "size_wh", "stride", "p", "scales", "grouping", "joints", "'a.b'", "[a]", "${a}"),
]


def _value(rng: random.Random, depth: int = 0) -> str:
    """A value that is valid now and then."""
    kind = rng.random()
    if kind < 0.75 or depth > 4:
        return rng.choice(PLAIN if rng.random() < 0.9 else ODD)
    if kind < 0.8:
        return "[" + ", ".join(_value(rng, depth + 1) for _ in range(rng.randrange(6))) + "]"
    if kind < 0.85:
        items = [f"{rng.choice(KEYS)}: {_value(rng, depth + 1)}" for _ in range(rng.randrange(5))]
        return "{" + ", ".join(items) + "}"
    if kind < 0.88:
        return rng.choice(["&a ", "&b "]) + _value(rng, depth + 1)
    if kind < 0.9:
        return rng.choice(["*a", "*b"])
    return _flood(rng)


def _flood(rng: random.Random) -> str:
    """A value that is large or deep, or becomes so."""
    size = int(10 ** rng.uniform(0, 4.6))
    few = rng.randrange(2, 40)
    steps = rng.randrange(2, 60)
    reference = rng.choice(["*k{0}", "'${{k{0}}}'", "'${{k{0}}}${{k{0}}}'", "'${{big.k{0}}}'"])

    def step(i: int) -> str:
        again = ", ".join([reference.format(i)] * rng.choice([1, 1, 2, 9]))
        return f"&k{i + 1} [{again}]" if rng.random() < 0.9 else f"&k{i + 1} {{<<: [{again}]}}"

    return rng.choice(
        [
            lambda: "[" * size + "]" * rng.choice([size, 0]),
            lambda: "{a: " * size + "1" + "}" * rng.choice([size, 0]),
            lambda: "[" + "1," * size + "]",
            lambda: "{" + ",".join(f"a{i}: 1" for i in range(size)) + "}",
            lambda: "[" + ", ".join(["&k0 x", *(step(i) for i in range(steps))]) + "]",
            lambda: "{" + ", ".join(["k0: &k0 x", *(f"k{i + 1}: {step(i)}" for i in range(steps))])
            + "}",
            lambda: "[" + ", ".join(["coco17"] * few) + "]",
            lambda: "'" + "${codec}" * few + "'",
        ]
    )()  # fmt: skip


def _places(node: Any, path: tuple = ()) -> list[tuple]:
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [path, *(p for key, child in inner for p in _places(child, (*path, key)))]


def _emit(node: Any) -> str:
    if isinstance(node, Raw):
        return node
    if isinstance(node, dict):
        items = (
            f"{k if isinstance(k, Raw) else json.dumps(k)}: {_emit(v)}" for k, v in node.items()
        )
        return "{" + ", ".join(items) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(_emit, node)) + "]"
    return json.dumps(node)


def _changed(rng: random.Random, valid: dict) -> dict:
    """A copy of a description with values and keys that it should not have."""
    made = json.loads(json.dumps(valid))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        *above, last = rng.choice(_places(made)[1:])
        node = made
        for key in above:
            node = node[key]
        action = rng.random()
        if action < 0.8:
            node[last] = Raw(_value(rng))
        elif action < 0.85 and isinstance(node, dict):
            node[Raw(rng.choice(KEYS))] = Raw(_value(rng))
        elif action < 0.95:
            del node[last]
        else:
            node[last] = json.loads(json.dumps(valid))
    return made


_PIECES = (
    *(b"\0", b"\xff\xfe", b"\t", b"\n", b"- ", b": ", b"{", b"#"),
    *(b"%YAML 1.9\n---\n", b"\n---\n"),
)


def _mutated(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled or put in."""
    for _ in range(rng.choice([1, 3, 20])):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 1, 4, 100]))
        put = rng.choice([b"", bytes([rng.randrange(256)]), data[start:end] * 2, *_PIECES])
        data = data[:start] + put + data[end:]
    return data


def _generator(valid: Callable[[], list[dict]]) -> Callable[[random.Random], bytes]:
    def generate(rng: random.Random) -> bytes:
        start = rng.choice(valid())
        kind = rng.random()
        if kind < 0.1:
            text = _value(rng)
        elif kind < 0.3:
            text = dump_config(start)
        else:
            text = _emit(_changed(rng, start))
        data = text.encode("utf-8", "surrogatepass")
        return _mutated(rng, data) if 0.1 <= kind < 0.3 or rng.random() < 0.1 else data

    return generate


@cache
def _configs() -> list[dict]:
    return [
        load_config("quickstart"),
        load_config("imhn_quickstart"),
        read_yaml(shipped("configs") / "quickstart.yml") | {"_base_": ["case0.yml", "case1.yml"]},
    ]


@cache
def _bundles() -> list[dict]:
    return [read_yaml(path) for path in sorted(BUNDLES.glob(f"*/{DESCRIPTION}"))]


def _overrides(rng: random.Random) -> bytes:
    config = rng.choice(_configs()[:2])
    lines = []
    for _ in range(rng.randrange(1, 5)):
        key = ".".join(map(str, rng.choice(_places(config))))
        if rng.random() < 0.3:
            key += rng.choice([".", "..", ".x", ".0", ".-1", ".99999999999999999999", ".type", "x"])
        lines.append(f"{key}={_value(rng)}".replace("\n", " "))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _build(experiment: Experiment) -> None:
    """All parts but networks, which may be as large as the machine allows, and data."""
    for key, hint in type_hints(Config).items():
        if key not in ("model", "teacher", "train_dataset", "val_dataset"):
            build(experiment.config[key], hint, key)


def _read_config(path: Path) -> None:
    _build(Experiment.from_file(path))


def _read_overrides(path: Path) -> None:
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    _build(Experiment.from_file("quickstart", lines))


def _read_bundle(path: Path) -> None:
    with TemporaryDirectory() as folder:
        copyfile(path, Path(folder) / DESCRIPTION)
        copyfile(BUNDLES / "quickstart" / ONNX, Path(folder) / ONNX)
        Bundle(folder)


READERS = [
    Reader("config", ".yml", _generator(_configs), _read_config),
    Reader("overrides", ".txt", _overrides, _read_overrides),
    Reader("pose.yml", ".yml", _generator(_bundles), _read_bundle),
    Reader("detector.yml", ".yml", _generator(lambda: [DETECTOR]), read_detector_yml),
    Reader("infer_cfg.yml", ".yml", _generator(lambda: [INFER_CFG]), read_infer_cfg),
]
