"""Requirements have upper bounds, and the lock files have a version and hashes for each."""

import itertools
import re

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

LOCKS = sorted(ROOT.glob("requirements*-lock.txt"))
FILES = [path for path in sorted(ROOT.glob("requirements*.txt")) if path not in LOCKS]


def requirements(path):
    lines = path.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked(path):
    """Name → version and number of hashes."""
    found = {}
    for entry in path.read_text().replace("\\\n", "").splitlines():
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()
        found[name] = version, entry.count("--hash=sha256:")
    return found


def canonical(requirement):
    return re.sub("[-_.]+", "-", requirement.name).lower()


def build_requirements():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(text) for text in config["build-system"]["requires"]]


@pytest.mark.parametrize("path", [*FILES, None], ids=lambda path: path.stem if path else "build")
def test_every_requirement_has_an_upper_bound(path):
    for requirement in requirements(path) if path else build_requirements():
        bounds = {specifier.operator for specifier in requirement.specifier}
        assert bounds & {"<", "==", "~="}, f"{path}: {requirement}"


def test_the_lock_has_what_is_required():
    lock = locked(ROOT / "requirements-lock.txt")
    assert all(hashes for _, hashes in lock.values())
    files = [path for path in FILES if path.stem != "requirements-convert"]
    for requirement in itertools.chain(build_requirements(), *map(requirements, files)):
        version, _ = lock[canonical(requirement)]
        assert requirement.specifier.contains(version), f"{requirement}: make lock"


def test_the_lock_of_the_service_agrees_with_it():
    lock, service = (locked(ROOT / f"requirements-{name}.txt") for name in ("lock", "serve-lock"))
    assert service.items() <= lock.items()
    for name in ("deploy", "serve"):
        for requirement in requirements(ROOT / f"requirements-{name}.txt"):
            assert canonical(requirement) in service, f"{requirement}: make lock"
