"""`check_model`: checks a model file of any format before a backend sees it."""

from __future__ import annotations

from pathlib import Path

from ppose.deploy.backends.model_files import model_files
from ppose.deploy.backends.onnx_file import read_onnx
from ppose.deploy.backends.openvino_file import check_openvino
from ppose.deploy.backends.paddle_files import check_weights, read_program


def check_model(path: Path) -> None:
    """Checks that a model has allowed operators only, and weights of the sizes that it needs.

    Raises:
        BackendError: it has not, or is damaged.
    """
    if path.suffix == ".onnx":
        read_onnx(path)
    elif path.suffix == ".xml":
        check_openvino(path)
    else:
        check_weights(model_files(path)[1], read_program(path))
