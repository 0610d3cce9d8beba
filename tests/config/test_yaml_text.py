"""YAML from anywhere: plain values only, and limits that hold while it is read."""

import importlib.util
import sys

import pytest
from conftest import ROOT

from ppose.config import ConfigError, load_config, yaml_text
from ppose.config.yaml_text import MAX_BYTES, MAX_VALUES, dump_config, parse_yaml, read_yaml

TIMES = 40


def chained(first, step):
    """Keys k0, k1 …, each of which refers to the one before."""
    return "\n".join([f"k0: {first}", *(f"k{i}: {step(i - 1)}" for i in range(1, 2 * TIMES))])


FLOODS = {
    "aliases": chained("&a0 [x]", lambda i: f"&a{i + 1} [*a{i}, *a{i}]"),
    "deep aliases": chained("&a0 [x]", lambda i: f"&a{i + 1} [*a{i}]"),
    "many values": "a: [" + "1," * (MAX_VALUES + 1) + "]",
    "deep lists": "a: " + "[" * 900,
    "deep dicts": "a: " + "{b: " * 900,
    "deep blocks": "\n".join(f"{' ' * i}- " for i in range(400)),
    "references": chained("x", lambda i: f"'${{k{i}}}${{k{i}}}'"),
    "lists of references": chained("[x]", lambda i: f"['${{k{i}}}', '${{k{i}}}']"),
    "unused references": chained("{x: ''}", lambda i: f"{{x: '${{k{i}.x}}${{k{i}.x}}'}}"),
    "references in a row": "\n".join(f"k{i}: ${{k{i + 1}}}" for i in range(5000)) + "\nk5000: 1",
    "deep references": chained("[x]", lambda i: f"[[['${{k{i}}}']]]"),
    "bytes": "#".ljust(MAX_BYTES + 1, "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_one_line_at_once(tmp_path, name):
    path = tmp_path / "run.yml"
    path.write_text(FLOODS[name])
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "more than" in str(caught.value) or "too large" in str(caught.value)
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize("name", ["aliases", "deep aliases", "many values", "deep lists"])
def test_a_flood_in_an_override_is_one_line_at_once(tmp_path, name):
    (tmp_path / "run.yml").write_text("a: 1")
    with pytest.raises(ConfigError, match="^-o x: more than"):
        load_config(tmp_path / "run.yml", [f"x={FLOODS[name]}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!bool x", "line 1, column 4: the tag tag:yaml.org,2002:bool is not allowed"),
        ("a: !!timestamp x", "the tag .* is not allowed; write the value alone"),
        ("a: !!int x", "the tag .* is not allowed"),
        ("a: !!float ''", "the tag .* is not allowed"),
        ("a: !!set {x}", "the tag .* is not allowed"),
        ("a: !mine 1", "the tag .* is not allowed"),
        ("a: " + "9" * 5000, "line 1, column 4: a number of 5000 digits"),
        ("a: 1" + ":1" * 500, "a number of 1001 digits"),
        ('a: "\\0"', "line 1, column 4: a character that no text has"),
        ("a: &x {b: 1}\nc: {<<: *x}", "line 2, column 5: merge keys are not allowed"),
        ("a: *b", "found undefined alias"),
        ("a: 'b", "line 1, column 6: .*found unexpected end of stream"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed"),
        ("a: 1\n---\nb: 1", "expected a single document"),
        ("%YAML 9.9\n---\na: 1", "found incompatible YAML document"),
        ("a: \x00", "control characters are not allowed"),
    ],
)
def test_what_is_no_plain_value_is_an_error_with_its_place(tmp_path, text, message):
    path = tmp_path / "run.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yml: not valid YAML: .*{message}"):
        read_yaml(path)


@pytest.mark.parametrize("base", ["'a\\0b'", '"\\ud800.yml"', "x" * 5000])
def test_a_base_that_is_no_path_is_an_error(tmp_path, base):
    (tmp_path / "run.yml").write_text(f"_base_: {base}")
    with pytest.raises((ConfigError, OSError)):
        load_config(tmp_path / "run.yml")


def test_the_bases_of_a_config_are_limited_together(tmp_path):
    (tmp_path / "large.yml").write_text("#".ljust(MAX_BYTES // 3, "x"))
    (tmp_path / "run.yml").write_text(f"_base_: [{', '.join(['large.yml'] * 4)}]")
    with pytest.raises(ConfigError, match="at most 100 files and 1000 kB"):
        load_config(tmp_path / "run.yml")


@pytest.mark.parametrize("override", ["x=!!bool x", "x={a: 1, a: 2}", "x=" + "9" * 5000])
def test_an_override_that_is_no_value_is_an_error(tmp_path, override):
    (tmp_path / "run.yml").write_text("a: 1")
    with pytest.raises(ConfigError, match="^-o x: "):
        load_config(tmp_path / "run.yml", [override])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("off", "off"),
        ("=", "="),
        ("5e-4", 5e-4),
        ("0x10", 16),
        ("1_000", 1000),
        (".inf", float("inf")),
        ("~", None),
        ("[&x [1], *x, *x]", [[1], [1], [1]]),
    ],
)
def test_plain_values(text, value):
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)
    assert parse_yaml(dump_config(found)) == value


def test_the_parser_in_python_reads_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml.cyaml", None)
    spec = importlib.util.spec_from_file_location("slow_yaml_text", yaml_text.__file__)
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    assert slow._Parser.__module__ == "slow_yaml_text"
    for path in [
        ROOT / "configs/quickstart.yml",
        ROOT / "configs/weights/bundles/quickstart/pose.yml",
    ]:
        assert slow.read_yaml(path) == read_yaml(path)
    with pytest.raises(ConfigError, match="more than 50 lists"):
        slow.parse_yaml(FLOODS["deep lists"])


def test_a_file_of_windows_is_read(tmp_path):
    (tmp_path / "run.yml").write_bytes("\ufeffa: ü\r\nb: 1\r\n".encode())
    assert read_yaml(tmp_path / "run.yml") == {"a": "ü", "b": 1}
