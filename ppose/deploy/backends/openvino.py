"""OpenVINO backend, on CPUs and Intel GPUs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import openvino

from ppose.deploy.backends.check_model import check_model
from ppose.deploy.backends.session import Session, TensorInfo, error_summary
from ppose.utils.log import silenced_native_stderr

_DEVICES = {"cpu": "CPU", "gpu": "GPU"}


class OpenVinoSession(Session):
    """A model in OpenVINO IR (`.xml`), ONNX, or Paddle's legacy format (`.pdmodel`)."""

    backend = "openvino"

    def _load(self) -> None:
        core = _core()
        name = _DEVICES[self.device]
        if name not in core.available_devices:
            raise self._error(
                f"{name} is not available, only {', '.join(core.available_devices)}; install the "
                "drivers of the Intel GPU"
            )
        check_model(self.path)
        try:
            with silenced_native_stderr():
                model = core.read_model(self.path)
        except Exception as error:
            raise self._error(f"cannot load it: {error_summary(error)}") from error
        capabilities = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
        self._check_precision(model, capabilities)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # The default is bfloat16 on CPUs that support it.
            "INFERENCE_PRECISION_HINT": "f16" if self.precision == "fp16" else "f32",
        }
        if self.device == "cpu":
            settings["INFERENCE_NUM_THREADS"] = self.threads
            # A pinned thread waits for other processes that run on its core.
            settings["ENABLE_CPU_PINNING"] = False
        try:
            self._request = core.compile_model(model, name, settings).create_infer_request()
        except Exception as error:
            raise self._error(f"cannot load it: {error_summary(error)}") from error
        self.inputs = tuple(self._tensor(port) for port in model.inputs)
        self.outputs = tuple(self._tensor(port) for port in model.outputs)
        self._model = model if any(-1 in tensor.shape[1:] for tensor in self.inputs) else None
        self._known_sizes: set[tuple[tuple[int, ...], ...]] = set()

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        self._check_sizes(arrays)
        outputs = self._request.infer(arrays, share_inputs=True)
        return [outputs[i] for i in range(len(self.outputs))]

    def _check_sizes(self, arrays: list[np.ndarray]) -> None:
        """Raises RuntimeError for unsupported sizes, which `infer` does not report."""
        sizes = tuple(array.shape[1:] for array in arrays)
        if self._model is None or sizes in self._known_sizes:
            return
        self._model.reshape({i: array.shape for i, array in enumerate(arrays)})
        self._known_sizes.add(sizes)

    def _tensor(self, port: Any) -> TensorInfo:
        name = port.get_any_name() if port.names else port.node.friendly_name
        sizes = port.partial_shape
        if sizes.rank.is_dynamic:
            raise self._error(f"{name} has no fixed number of axes")
        shape = tuple(-1 if size.is_dynamic else size.get_length() for size in sizes)
        return TensorInfo(name, np.dtype(port.element_type.to_dtype()).name, shape)

    def _check_precision(self, model: Any, capabilities: list[str]) -> None:
        quantized = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        if self.precision == "int8" and not quantized:
            raise self._error("a float model; export a quantized network for int8")
        if self.precision == "fp32" and quantized:
            raise self._error("an int8 model, which OpenVINO runs in int8 only")
        if self.precision == "fp16" and "FP16" not in capabilities:
            supported = ", ".join(sorted({"FP32", "BF16", "INT8"}.intersection(capabilities)))
            raise self._error(f"this {self.device} supports {supported}, not fp16; use fp32")


@cache
def _core() -> openvino.Core:
    """The only `Core` of the process.

    The CPU plugin installs an alternate signal stack and frees it with its core. With several
    cores, freeing one could free the stack that is in use, and the next Ctrl-C would crash.
    """
    return openvino.Core()
