"""Telemetry of packages that ppose imports: declined."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any


def decline(
    environment: MutableMapping[str, str] = os.environ,
    modules: MutableMapping[str, Any] = sys.modules,
) -> None:
    """Turns off what OpenVINO and ONNX Runtime report about their users, before they are imported.

    - ONNX Runtime reads a variable, which processes started from here have too. A value that the
      user has set is kept.
    - OpenVINO reports its import unless a file in the home folder forbids it. Where the package
      that reports cannot be imported, it takes a stub in its place. A host program that has
      imported that package keeps it.

    Args:
        environment: variables to set.
        modules: imported modules, or None for those that cannot be imported.
    """
    environment.setdefault("ORT_DISABLE_TELEMETRY", "1")
    modules.setdefault("openvino_telemetry", None)
