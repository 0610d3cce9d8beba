"""Bases, overrides, references, in that order; safe and explained."""

from itertools import permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ppose.config import dump_config, load_config
from ppose.registry import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_bases_merge_dicts_replace_lists_and_replace_nodes_of_another_type(write):
    write("a: {x: 1, y: 2}\nlist: [1, 2]\nnode: {type: A, p: 1}\nsame: {type: A, p: 1}", "base.yml")
    config = load_config(
        write(
            "_base_: base.yml\na: {y: 3}\nlist: [9]\nnode: {type: B, q: 2}\nsame: {type: A, r: 1}"
        )
    )
    assert config == {
        "name": "run",
        "a": {"x": 1, "y": 3},
        "list": [9],
        "node": {"type": "B", "q": 2},
        "same": {"type": "A", "p": 1, "r": 1},
    }


@pytest.mark.parametrize("bases", ["null", "[]"])
def test_an_empty_base_is_none(write, bases):
    assert load_config(write(f"_base_: {bases}\na: 1")) == {"name": "run", "a": 1}


def test_later_bases_win(write):
    write("a: 1\nb: 1", "one.yml")
    write("b: 2", "two.yml")
    assert load_config(write("_base_: [one.yml, two.yml]")) == {"name": "run", "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("a.b=1", ("a", "b"), 1),
        ("list.0.p=0.5", ("list", 0, "p"), 0.5),
        ("lr=5e-4", ("lr",), 5e-4),
        ("lr=1E3", ("lr",), 1000.0),
        ("flag=true", ("flag",), True),
        ("flag=null", ("flag",), None),
        ("path=a=b.yml", ("path",), "a=b.yml"),
        ("path=C: x: y", ("path",), "C: x: y"),
        ("a={c: 3}", ("a", "c"), 3),
        ("size=[1, 2]", ("size",), [1, 2]),
    ],
)
def test_overrides_reach_everything(write, override, key, value):
    path = write("a: {b: 0}\nlist: [{p: 1}]\nlr: 0.1\nflag: false\npath: ''\nsize: [0, 0]")
    found = load_config(path, [override])
    for part in key:
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_references_follow_overrides_and_keep_types(write):
    path = write("size: [1, 2]\nuse: {at: '${size}', text: 'to ${size.0}'}\nagain: ${use.at}")
    config = load_config(path, ["size=[3, 4]"])
    assert config["use"] == {"at": [3, 4], "text": "to 3"}
    assert config["again"] == [3, 4]


def test_an_override_reaches_through_a_reference_without_changing_its_source(write):
    path = write("crop: {pad: 1.0}\nsteps: ['${crop}']")
    config = load_config(path, ["steps.0.pad=2.0"])
    assert config["steps"][0]["pad"] == 2.0
    assert config["crop"]["pad"] == 1.0


OVERRIDES = ["steps.0.pad=2.0", "size=[64, 64]", "crop.udp=true"]


@pytest.mark.parametrize("overrides", list(permutations(OVERRIDES)))
@pytest.mark.parametrize("steps", ["['${crop}']", "['${alias}']", "'${list}'"])
def test_an_override_through_a_reference_leaves_the_rest_to_follow(write, steps, overrides):
    path = write(
        "size: [8, 8]\ncrop: {size: '${size}', pad: 1.0, udp: false}\nalias: ${crop}\n"
        f"list: ['${{alias}}']\nsteps: {steps}\npad: '${{steps.0.pad}}'"
    )
    config = load_config(path, overrides)
    crop = {"size": [64, 64], "pad": 1.0, "udp": True}
    assert config["crop"] == config["alias"] == config["list"][0] == crop
    assert config["steps"] == [crop | {"pad": 2.0}]
    assert config["pad"] == 2.0


def test_overriding_a_type_drops_the_arguments_of_the_old_one(write):
    path = write("opt: {type: Adam, betas: 3}")
    assert load_config(path, ["opt.type=SGD", "opt.lr=1"])["opt"] == {"type": "SGD", "lr": 1}


@pytest.mark.parametrize("overrides", list(permutations(["a.type=Z", "a.b.type=B", "a.b.n=5"])))
def test_a_type_is_set_before_its_arguments(write, overrides):
    path = write("a: {type: A, p: 1, b: {type: C, q: 1}}")
    with pytest.raises(ConfigError, match="a has no key 'b'"):
        load_config(path, [o for o in overrides if o != "a.b.n=5"])
    config = load_config(path, [o for o in overrides if o != "a.type=Z"])
    assert config["a"] == {"type": "A", "p": 1, "b": {"type": "B", "n": 5}}


@pytest.mark.parametrize(
    ("overrides", "node"),
    [
        (["b.type=B", "b.n=1", "b.type=C"], {"type": "C", "n": 1}),
        (["b={type: B}", "b.type=C", "b.n=1", "b.n=2"], {"type": "C", "n": 2}),
    ],
)
def test_the_last_of_equal_overrides_wins(write, overrides, node):
    assert load_config(write("b: {type: A}"), overrides)["b"] == node


def test_here_is_the_folder_of_the_file_that_says_it(write, tmp_path):
    (tmp_path / "base").mkdir()
    write("weights: ${here}/w", "base/b.yml")
    assert load_config(write("_base_: base/b.yml"))["weights"] == str(tmp_path / "base" / "w")


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_overrides_does_not_matter(write, order):
    path = write("size: 1\ncrop: {size: '${size}', pad: 1}\nsteps: ['${crop}']")
    config = load_config(path, ["steps.0.pad=2", "size=3"][::order])
    assert config["steps"] == [{"size": 3, "pad": 2}]
    assert config["crop"] == {"size": 3, "pad": 1}
    path = write("opt: {type: A, x: 1}")
    config = load_config(path, ["opt.y=5", "opt.type=B"][::order])
    assert config["opt"] == {"type": "B", "y": 5}


def test_below_the_working_directory_here_is_relative(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    assert load_config(write("w: ${here}/x", "configs/a.yml"))["w"] == "configs/x"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("a: [", (), "not valid YAML"),
        ("a: 1\na: 2", (), "'a' stands twice"),
        ("- 1", (), "expected keys and values"),
        ("a: ${b}", (), r"the config has no 'b'"),
        ("alpha: 1\na: ${alhpa}", (), "did you mean 'alpha'"),
        ("a: ${b}\nb: ${a}", (), "circle"),
        ("a: ${b.x}\nb: ${a.y}", (), "circle"),
        ("a: ${b}\nb: ${a}", ["a.x=1"], "circle"),
        ("_base_: run.yml", (), "circle"),
        ("a: &x [*x]", (), "not valid YAML: found unconstructable recursive node"),
        ("a: &x {b: *x}", (), "not valid YAML: found unconstructable recursive node"),
        ("a: 2024-13-01", (), "not valid YAML: month must be"),
        ("a: {1: x, 2: x, 1: y}", (), "the key '1' stands twice"),
        ("? [a]\n: 1\n? [a]\n: 2", (), r"not valid YAML: (.*\n)+found unhashable key"),
        ("a: {b: 1}", ["a.c.d=1"], "a has no key 'c'"),
        ("a: {b: 1}", ["a.b.c=1"], "value 1, it has no keys"),
        ("a: [1]", ["a.3=1"], "a list of 1"),
        ("a: 1", ["a"], "expected key=value"),
        ("_base_: 5", (), "_base_: expected a path or a list of paths, found 5"),
        ("_base_: [5]", (), "_base_: expected"),
        ("a: !!python/object/apply:os.system ['true']", (), "not valid YAML"),
    ],
)
def test_faults_are_explained(write, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text), overrides)


def test_a_file_with_too_many_keys_is_refused_in_a_moment(write):
    # A mapping's keys are compared with all before them, but not one by one.
    path = write("\n".join(f"k{i}: 0" for i in range(100_000)))
    with pytest.raises(ConfigError, match="more than 100000 values"):
        load_config(path)


def test_a_large_file_is_refused_before_it_is_parsed(write):
    with pytest.raises(ConfigError, match="run.yml: more than 10 MB"):
        load_config(write("a: [ #".ljust(10_000_001, "x")))


def test_a_missing_file_and_a_missing_base_are_named(write):
    path = write("_base_: bsae.yml")
    write("", "base.yml")
    with pytest.raises(
        FileNotFoundError, match=r"bsae.yml \(a _base_ of .*run.yml\); did you mean"
    ):
        load_config(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc $e1.-"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abcde", min_size=1), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcde", min_size=1), values))
@example({"a": "1e1"})
def test_the_dump_reads_back_as_the_same_config(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("dump") / "run.yml"
    path.write_text(dump_config(config | {"name": "x"}))
    assert load_config(path) == config | {"name": "x"}
