"""Running a network contacts nobody and leaves nothing in the home folder."""

import json
import os
import shutil
import subprocess
import sys

from conftest import ROOT

from ppose.deploy.backends.settings import BACKENDS
from ppose.utils.telemetry import decline

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"
# Runs the command, and notes what Python asks of the network.
RECORDED = """
import json, sys
def note(event, arguments):
    if event.partition(".")[0] in ("socket", "urllib") and event not in {quiet!r}:
        with open({noted!r}, "a") as file:
            file.write(json.dumps([event, repr(arguments)]) + "\\n")
sys.addaudithook(note)
from ppose.commands import main
main({argv!r})
"""
# Telemetry of OpenVINO keeps quiet by itself where one of these is set.
CI = ("CI", "TF_BUILD", "JENKINS_URL")


def run_recorded(folder, *argv):
    """What a command contacts, and what it leaves in an empty home folder."""
    home, noted, calls = folder / "home", folder / "noted.jsonl", folder / "calls"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in CI}
    env |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("ORT_DISABLE_TELEMETRY", None)
    env.pop("XDG_CACHE_HOME", None)
    code = RECORDED.format(quiet=("socket.__new__",), noted=str(noted), argv=list(map(str, argv)))
    command = [sys.executable, "-c", code]
    if strace := shutil.which("strace"):  # also what C and C++ ask of the network
        command = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg",
                   "-e", "signal=none", "-o", str(calls), *command]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    contacts = noted.read_text().splitlines() if noted.exists() else []
    if strace:
        contacts += [line for line in calls.read_text().splitlines() if "sa_family=AF_INET" in line]
    return contacts, sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())


def test_inference_contacts_nobody_and_leaves_the_home_folder_alone(bottom_up_bundle, tmp_path):
    """At first use `--backend auto` runs every backend."""
    contacts, files = run_recorded(
        tmp_path,
        *("infer", "--model_dir", bottom_up_bundle, "--infer_img", PEOPLE),
        *("--output_dir", tmp_path / "out", "--backend", "auto"),
    )
    assert contacts == []
    choice = ".cache/ppose/backends.json"
    assert choice in files and all(name.startswith(".cache/ppose/") for name in files)
    measured = list(json.loads((tmp_path / "home" / choice).read_text())["choices"].values())
    assert measured[0]["ms"].keys() == set(BACKENDS)


def test_what_is_recorded_holds_a_contact(tmp_path):
    """The recording itself: an address that ppose is told to read from."""
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    noted = tmp_path / "noted.jsonl"
    script = RECORDED.format(quiet=("socket.__new__",), noted=str(noted), argv=[])
    before = script.partition("from ppose")[0]
    subprocess.run([sys.executable, "-c", before + code], capture_output=True, timeout=60)
    assert "127.0.0.1" in noted.read_text()


def test_who_has_chosen_keeps_the_choice():
    environment, modules = {"ORT_DISABLE_TELEMETRY": "0"}, {"openvino_telemetry": os}
    decline(environment, modules)
    assert environment == {"ORT_DISABLE_TELEMETRY": "0"}
    assert modules == {"openvino_telemetry": os}
