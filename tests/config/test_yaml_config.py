"""YAML configs: bases, overrides, references, shipped names, deprecated names, error messages."""

import re
from itertools import permutations

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from ppose.config import (
    ConfigError,
    dump_config,
    find_config,
    load_config,
    shipped_configs,
)
from ppose.experiment import Experiment


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_dicts_are_merged_and_lists_and_nodes_of_another_type_are_replaced(write):
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
def test_an_empty_base_is_ignored(write, bases):
    assert load_config(write(f"_base_: {bases}\na: 1")) == {"name": "run", "a": 1}


def test_later_bases_take_precedence(write):
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
def test_overrides_set_values_in_dicts_and_lists(write, override, key, value):
    path = write("a: {b: 0}\nlist: [{p: 1}]\nlr: 0.1\nflag: false\npath: ''\nsize: [0, 0]")
    found = load_config(path, [override])
    for part in key:
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_references_see_overrides_and_keep_types(write):
    path = write("size: [1, 2]\nuse: {at: '${size}', text: 'to ${size.0}'}\nagain: ${use.at}")
    config = load_config(path, ["size=[3, 4]"])
    assert config["use"] == {"at": [3, 4], "text": "to 3"}
    assert config["again"] == [3, 4]


def test_an_override_through_a_reference_does_not_change_its_source(write):
    path = write("crop: {pad: 1.0}\nsteps: ['${crop}']")
    config = load_config(path, ["steps.0.pad=2.0"])
    assert config["steps"][0]["pad"] == 2.0
    assert config["crop"]["pad"] == 1.0


OVERRIDES = ["steps.0.pad=2.0", "size=[64, 64]", "crop.udp=true"]


@pytest.mark.parametrize("overrides", list(permutations(OVERRIDES)))
@pytest.mark.parametrize("steps", ["['${crop}']", "['${alias}']", "'${list}'"])
def test_an_override_through_a_reference_keeps_the_other_references(write, steps, overrides):
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
def test_the_last_of_several_overrides_of_a_key_counts(write, overrides, node):
    assert load_config(write("b: {type: A}"), overrides)["b"] == node


def test_here_is_the_folder_of_the_file_that_contains_it(write, tmp_path):
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


def test_here_is_relative_inside_the_working_directory(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    assert load_config(write("w: ${here}/x", "configs/a.yml"))["w"] == "configs/x"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("a: [", (), "not valid YAML"),
        ("a: 1\na: 2", (), "duplicate key 'a'"),
        ("- 1", (), "expected keys and values"),
        ("a: ${b}", (), r"the config has no 'b'"),
        ("alpha: 1\na: ${alhpa}", (), "did you mean 'alpha'"),
        ("a: ${b}\nb: ${a}", (), "circular"),
        ("a: ${b.x}\nb: ${a.y}", (), "circular"),
        ("a: ${b}\nb: ${a}", ["a.x=1"], "circular"),
        ("_base_: run.yml", (), "circular"),
        (
            "a: &x [*x]",
            (),
            "line 1, column 4: found unconstructable recursive node",
        ),
        (
            "a: &x {b: *x}",
            (),
            "line 1, column 4: found unconstructable recursive node",
        ),
        ("a: {1: x, 2: x, 1: y}", (), "duplicate key '1'"),
        ("? [a]\n: 1\n? [a]\n: 2", (), "YAML: line 1, column 3: a key is a list or dict"),
        ("a: {b: 1}", ["a.c.d=1"], "a has no key 'c'"),
        ("a: {b: 1}", ["a.b.c=1"], "value 1 and has no keys"),
        ("a: [1]", ["a.3=1"], "a list of 1"),
        ("a: 1", ["a"], "expected key=value"),
        ("_base_: 5", (), "_base_: expected a path or a list of paths, found 5"),
        ("_base_: [5]", (), "_base_: expected"),
        ("a: !!python/object/apply:os.system ['true']", (), "not valid YAML"),
    ],
)
def test_errors_are_explained(write, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text), overrides)


def test_a_file_with_too_many_keys_is_refused_quickly(write):
    # The search for duplicate keys is not quadratic.
    path = write("\n".join(f"k{i}: 0" for i in range(100_000)))
    with pytest.raises(ConfigError, match="more than 50000 values"):
        load_config(path)


def test_a_large_file_is_refused_before_it_is_parsed(write):
    with pytest.raises(ConfigError, match="run.yml: more than 1000 kB; take the original file"):
        load_config(write("a: [ #".ljust(1_000_001, "x")))


def test_a_missing_base_is_an_error_that_suggests_a_name(write):
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
def test_a_dumped_config_is_read_back_unchanged(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("dump") / "run.yml"
    path.write_text(dump_config(config | {"name": "x"}))
    assert load_config(path) == config | {"name": "x"}


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yml", "compress/quickstart"])
def test_a_shipped_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = ROOT / "configs" / f"{name.removesuffix('.yml')}.yml"
    assert find_config(name).samefile(expected)
    assert load_config(name) == load_config(expected)


def test_all_shipped_configs_are_listed():
    files = (ROOT / "configs").rglob("*.yml")
    names = {str(file.relative_to(ROOT / "configs").with_suffix("")) for file in files}
    assert set(shipped_configs()) == {n for n in names if not n.startswith(("_base_", "weights/"))}


def test_a_file_in_the_working_directory_comes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yml").write_text("a: 1")
    assert load_config("quickstart.yml") == {"name": "quickstart", "a": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", "no config file 'quikstart' and no shipped .*; did you mean 'quickstart'"),
        ("quikstart.yml", "'quikstart.yml' and no shipped .*; did you mean 'quickstart'"),
        ("mine2.yml", "; did you mean 'mine.yml'"),
        ("zzz", "; known: compress/lite_hrnet_30, .*, tinypose_256x192_pact"),
        ("_base_/run", "no shipped config of that name"),
        ("compress/../_base_/run", "no shipped config of that name"),
        ("_base_/run.yml", "there is no config file .*run.yml"),
        ("", "no config file"),
        (".", "no config file"),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_one(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yml").write_text("a: 1")
    with pytest.raises(FileNotFoundError, match=message):
        load_config(name)


@pytest.mark.parametrize(
    ("override", "places"),
    [
        ("lr=0.1", "did you mean 'optimizer.lr'?"),
        ("backbone.width=3", "did you mean 'model.backbone'?"),
        ("model.width=3", "did you mean 'model.backbone.width'?"),
        ("padding=1", "did you mean 'crop.padding' or 'train_transforms.0.padding'?"),
        ("epoch=3", "did you mean 'epochs'?"),
    ],
)
def test_a_key_that_stands_deeper_is_pointed_to(override, places):
    with pytest.raises(ConfigError, match=re.escape(places)):
        Experiment.from_file("quickstart", [override])


# A bottom-up config with all names that were replaced, and the same with current names.
BASE = """\
crop: {{type: {ImageCrop}, size: 64, border: 3}}
codec: {{parts: {{type: {PartLayout}, skeleton: coco17}}}}
train_dataset: {{type: {CocoMultiPerson}, image_dir: i, {per_image}: true}}
train_transforms:
  - {{type: {ImageFit}, size_wh: [64, 64]}}
"""
FORMER = {
    "ImageCrop": "PictureCrop",
    "ImageFit": "PictureFit",
    "PartLayout": "Parts",
    "CocoMultiPerson": "CocoScenes",
    "per_image": "per_picture",
}
CURRENT = {name: name for name in FORMER}
WARNINGS = [
    "'per_picture' of CocoMultiPerson is now 'per_image'",
    "'type: CocoScenes' is now 'type: CocoMultiPerson'",
    "'type: Parts' is now 'type: PartLayout'",
    "'type: PictureCrop' is now 'type: ImageCrop'",
    "'type: PictureFit' is now 'type: ImageFit'",
]


def warned(capsys):
    output, errors = capsys.readouterr()
    assert output == ""
    return errors.splitlines()


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_read_with_one_warning(write, capsys, name):
    expected = load_config(write(BASE.format(**CURRENT)))
    assert warned(capsys) == []
    path = write(BASE.format(**CURRENT | {name: FORMER[name]}))
    assert load_config(path) == expected
    [line] = warned(capsys)
    assert line.startswith(f"run.yml: deprecated: '{'' if name == 'per_image' else 'type: '}")
    assert f"{FORMER[name]}'" in line and line.endswith(f"{name}'")


def test_a_former_name_that_is_used_twice_is_one_warning(write, capsys):
    load_config(write("a: {type: PictureCrop}\nb: [{type: PictureCrop, size: 1}]"))
    assert warned(capsys) == ["run.yml: deprecated: 'type: PictureCrop' is now 'type: ImageCrop'"]


@pytest.mark.parametrize("in_base", [FORMER, CURRENT], ids=["former", "current"])
@pytest.mark.parametrize("in_file", [FORMER, CURRENT], ids=["former", "current"])
def test_former_names_in_a_base_and_in_a_file_mean_the_current_ones(
    write, capsys, in_base, in_file
):
    """Nodes are merged although one has the former name of the class and one the current."""
    over = (
        "_base_: base.yml\ncrop: {{type: {ImageCrop}, size: 96}}\n"
        "train_dataset: {{type: {CocoMultiPerson}, {per_image}: false}}"
    )
    write(BASE.format(**CURRENT), "base.yml")
    expected = load_config(write(over.format(**CURRENT)))
    assert expected["crop"] == {"type": "ImageCrop", "size": 96, "border": 3}
    write(BASE.format(**in_base), "base.yml")
    assert load_config(write(over.format(**in_file))) == expected
    of_file = [WARNINGS[i] for i in (0, 1, 3)] if in_file is FORMER else []
    of_base = WARNINGS if in_base is FORMER else []
    assert warned(capsys) == [
        f"{file}: deprecated: {line}"
        for file, lines in (("base.yml", of_base), ("run.yml", of_file))
        for line in lines
    ]


def test_a_former_argument_is_known_by_the_type_in_the_base(write, capsys):
    write(BASE.format(**CURRENT), "base.yml")
    config = load_config(write("_base_: base.yml\ntrain_dataset: {per_picture: false}"))
    assert config["train_dataset"] == {
        "type": "CocoMultiPerson",
        "image_dir": "i",
        "per_image": False,
    }
    assert warned(capsys) == [f"run.yml: deprecated: {WARNINGS[0]}"]


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("crop.type=PictureCrop", "crop.type=ImageCrop"),
        ("crop={type: PictureCrop, size: 9}", "crop={type: ImageCrop, size: 9}"),
        ("train_dataset.per_picture=false", "train_dataset.per_image=false"),
        ("train_dataset={per_picture: false}", "train_dataset={per_image: false}"),
        ("train_transforms.0.type=PictureFit", "train_transforms.0.type=ImageFit"),
        ("train_transforms=[{type: PictureFit}]", "train_transforms=[{type: ImageFit}]"),
        ("codec.parts.type=Parts", "codec.parts.type=PartLayout"),
        ("train_dataset.type=CocoScenes", "train_dataset.type=CocoMultiPerson"),
        ("crop.type=CocoScenes", "crop.type=CocoMultiPerson"),
    ],
)
def test_former_names_in_an_override_mean_the_current_ones(write, capsys, former, current):
    path = write(BASE.format(**CURRENT))
    expected = load_config(path, [current])
    assert warned(capsys) == []
    assert load_config(path, [former]) == expected
    [line] = warned(capsys)
    assert line.startswith(f"-o {former}: deprecated: '")


def test_overriding_a_type_by_its_former_name_keeps_the_arguments(write):
    config = load_config(write(BASE.format(**CURRENT)), ["crop.type=PictureCrop"])
    assert config["crop"] == {"type": "ImageCrop", "size": 64, "border": 3}


def test_former_names_through_a_reference(write, capsys):
    config = load_config(write("kind: PictureCrop\ncrop: {type: '${kind}', size: 1}"))
    assert config["crop"] == {"type": "ImageCrop", "size": 1}
    assert warned(capsys) == ["run.yml: deprecated: 'type: PictureCrop' is now 'type: ImageCrop'"]


def test_a_former_and_a_current_argument_together_are_an_error(write):
    path = write(f"_base_: {ROOT}/configs/imhn_quickstart.yml\ntrain_dataset:\n"
                 "  {per_picture: false, per_image: true}")  # fmt: skip
    with pytest.raises(ConfigError, match="no argument 'per_picture'; did you mean 'per_image'"):
        Experiment.from_file(path)


def test_an_experiment_of_former_names_is_that_of_the_current_ones(write):
    """As written by older versions: resolved, without bases."""
    path = ROOT / "configs" / "imhn_quickstart.yml"
    experiment = Experiment.from_file(path)
    text = dump_config(experiment.config)
    for name, former in FORMER.items():
        text = text.replace(name, former)
    assert text.count("Picture") == 2 and "CocoScenes" in text and "per_picture" in text
    assert Experiment.from_file(write(text)).config == experiment.config
