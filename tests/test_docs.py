"""What the documents say is true: their Python runs, their links and commands lead somewhere."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from ppose.experiment import Experiment
from ppose.export.bundle import export_bundle

DOCUMENTS = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", "output", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
]


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


PYTHON = [
    pytest.param(code, id=f"{path.relative_to(ROOT)}-{i}")
    for path in DOCUMENTS
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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_scripts_and_configs_exist(path):
    pattern = r"\b(?:tools|configs|dataset|benchmarks)/[\w./]+\.(?:py|yml)"
    for name in re.findall(pattern, path.read_text()):
        assert (ROOT / name).exists() or "X.yml" in name, name


def test_the_readme_names_every_config():
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs").glob("*.yml"):
        assert f"configs/{path.name}" in text
