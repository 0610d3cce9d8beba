"""The variable is set where it helps, before Paddle reads it, and never against the user."""

import subprocess
import sys

import pytest

from ppose.cpu import prepare


@pytest.mark.parametrize(
    ("vendor", "before", "after"),
    [
        ("AuthenticAMD", {}, {"MKL_DEBUG_CPU_TYPE": "5"}),
        ("AuthenticAMD", {"MKL_DEBUG_CPU_TYPE": "4"}, {"MKL_DEBUG_CPU_TYPE": "4"}),
        ("GenuineIntel", {}, {}),
    ],
)
def test_only_amd_is_told(vendor, before, after):
    environment = dict(before)
    prepare(environment, vendor)
    assert environment == after


def test_importing_ppose_prepares_before_paddle():
    code = (
        "import os, sys; from unittest.mock import patch\n"
        "with patch('pathlib.Path.read_text', lambda *a, **k: 'vendor_id : AuthenticAMD'):\n"
        "    import ppose\n"
        "print(os.environ.get('MKL_DEBUG_CPU_TYPE'), 'paddle' in sys.modules)"
    )
    environment = {"PATH": "/usr/bin"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["5", "False"]
