"""Scripts, as a user runs them."""

import subprocess
import sys

from conftest import ROOT


def tool(name, *arguments, expect=0):
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    assert expect == 0 or "Traceback" not in done.stderr
    return done.stdout + done.stderr
