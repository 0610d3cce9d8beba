"""What the documents say is true: their Python runs, their links and commands lead somewhere."""

import argparse
import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from conftest import ROOT

from ppose import __version__
from ppose.commands import program
from ppose.config import find_config
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle

DOCUMENTS = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", "output", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
# Written by the reader in an example.
EXAMPLE_FILES = {"ppose/deploy/backends/onnx.py"}

every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def blocks(path, language=r"\w*"):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


# Those of ARCHITECTURE are run by tests/test_extending.py.
PYTHON = [
    pytest.param(code, id=f"{path.relative_to(ROOT)}-{i}")
    for path in DOCUMENTS
    if path != ARCHITECTURE
    for i, code in enumerate(blocks(path, "python"))
]


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code, tmp_path):
    for name in set(re.findall(r'"output/inference/(\w+)"', code)):
        experiment = Experiment.from_file(ROOT / "configs" / f"{name}.yml")
        export_bundle(experiment, tmp_path / "inference" / name, ["onnx"])
    code = code.replace('"output/', f'"{tmp_path}/')
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@every_document
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


@every_document
def test_links_lead_to_headings(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text()):
        text = ((path.parent / target) if target else path).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
        assert anchor in anchors, f"{target}#{anchor}"


@every_document
def test_named_files_exist(path):
    folders = "tools|configs|dataset|benchmarks|ppose|tests|docs"
    pattern = rf"(?<![\w/])(?:{folders})/[\w./]+\.(?:py|yml|md)\b"
    for name in set(re.findall(pattern, path.read_text())) - EXAMPLE_FILES:
        assert (ROOT / name).exists() or "X." in name, name


def test_the_readme_names_every_config():
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs").glob("*.yml"):
        assert f"configs/{path.name}" in text


def test_citation_and_changelog_know_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"\n## [{__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text()


def command_lines(path):
    """The command lines of ppose in code blocks: (subcommand or path of a script, arguments)."""
    for block in blocks(path):
        for line in block.replace("\\\n", " ").splitlines():
            if command := as_command(line.strip().removeprefix("$ ")):
                yield command


def as_command(line):
    """(subcommand or path of a script, arguments) of a line of a shell; None for other lines."""
    if not re.match(r"(?:\w+=\S* )*(?:\S*python3? .*|\S*ppose) ", line):
        return None
    words = shlex.split(line, comments=True)
    end = next((i for i, word in enumerate(words) if word in ("|", "&&", ";", ">", "&")), None)
    for i, word in enumerate(words[:end]):
        if Path(word).name == "ppose" and len(words) > i + 1:
            return words[i + 1], words[i + 2 : end]
        if re.fullmatch(r"(?:tools|deploy)/\w+\.py", word):
            return word, words[i + 1 : end]
    return None


@cache
def parsers():
    """Parser of each subcommand."""
    [commands] = [action for action in program()._actions if action.choices]
    return commands.choices


def parser_of(name):
    """The parser of a subcommand or of a script."""
    if not name.endswith(".py"):
        assert name in parsers(), f"there is no 'ppose {name}'"
        return parsers()[name]
    if command := re.search(r'script\("(\w+)"\)', (ROOT / name).read_text()):
        return parsers()[command[1]]
    spec = importlib.util.spec_from_file_location("documented_script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser


@every_document
def test_command_lines_parse(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, arguments in command_lines(path):
        parser = parser_of(name)
        if name in parsers() and {"-h", "--help"} & set(arguments):
            continue
        try:
            parsed = parser.parse_args(arguments)
        except SystemExit:
            wrong = capsys.readouterr().err.splitlines()[-1]
            pytest.fail(f"{name} {shlex.join(arguments)}: {wrong}")
        for config in (getattr(parsed, key, None) for key in ("config", "distill_config")):
            if config not in (None, "…"):
                assert find_config(config).is_file(), config


@every_document
def test_options_in_prose_exist(path):
    """Of code spans such as `ppose infer --model_dir`, which need not be complete."""
    pattern = r"(?<!`)`(?:ppose |(?=tools/|deploy/))([a-z][\w/.]*)((?: [^`]+)?)`(?!`)"
    for name, rest in re.findall(pattern, path.read_text()):
        if name.endswith(".py") or "/" not in name:
            given = {word.partition("=")[0] for word in rest.split() if word.startswith("-")}
            assert given <= parser_of(name)._option_string_actions.keys(), name + rest


def test_command_lines_are_found():
    lines = {
        "ppose train -c quickstart": ("train", ["-c", "quickstart"]),
        ".venv/bin/ppose config -c a -o b=1 | less": ("config", ["-c", "a", "-o", "b=1"]),
        "python -m ppose eval -c a    # comment": ("eval", ["-c", "a"]),
        "python -m paddle.distributed.launch --gpus 0,1 tools/train.py -c a": (
            "tools/train.py",
            ["-c", "a"],
        ),
        "pip install '.[train]'": None,
        "error: don't": None,
    }
    assert {line: as_command(line) for line in lines} == lines
    assert len(list(command_lines(ROOT / "README.md"))) >= 5


GROUND = {"config", "structures", "utils"}
PACKAGE = ROOT / "ppose"


def room_of(module):
    return module.split(".")[1]


@cache
def imports():
    """(module, imported module) within the package, lazy and type-only ones included."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    found = []
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [(module, n if n in files else node.module) for n in names]
    return [(a, b) for a, b in found if "." in a and b.startswith("ppose.")]


def room_imports():
    """Room → the other rooms that it imports."""
    found = defaultdict(set)
    for module, imported in imports():
        found[room_of(module)].add(room_of(imported))
    return {room: found[room] - {room, "version"} for room in found if room != "__main__"}


def rooms():
    return {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__", "__main__", "version"}


def test_the_picture_of_the_floors_shows_every_import_downward():
    tag = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(ROOT / "docs" / "images" / "floors.svg").getroot()
    boxes = {group.get("id"): group.find(f"{tag}rect") for group in root.iter(f"{tag}g")}
    assert boxes.keys() == rooms()
    for room, imported in room_imports().items():
        bottom = int(boxes[room].get("y")) + int(boxes[room].get("height"))
        for other in imported:
            assert int(boxes[other].get("y")) >= bottom, f"{room} imports {other}"


def test_the_table_of_rooms_lists_every_import():
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.*?) ?\|$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert {room for room, _ in rows} == rooms()
    above = {"experiment", "convert", "training", "deploy", "export", "api", "commands"}
    for room, text in rows:
        listed = set(re.findall(r"`(\w+)`", text)) | (GROUND if room not in GROUND else {"utils"})
        if "all parts" in text:
            listed |= rooms() - above
        if "everything" in text:
            listed = rooms()
        assert room_imports().get(room, set()) <= listed, room
