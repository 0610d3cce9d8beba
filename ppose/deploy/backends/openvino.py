"""OpenVINO, on CPUs and Intel's GPUs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import openvino

from ppose.deploy.backends.paddle_files import check_weights, read_program
from ppose.deploy.session import Session, Tensor, model_files, reason
from ppose.log import native_silence

_DEVICES = {"cpu": "CPU", "gpu": "GPU"}


class OpenVinoSession(Session):
    """A model in OpenVINO's form (`.xml`), ONNX, or Paddle's old form (`.pdmodel`)."""

    backend = "openvino"

    def _load(self) -> None:
        core = _core()
        name = _DEVICES[self.device]
        if name not in core.available_devices:
            raise self._refuse(
                f"it sees no {name} but {', '.join(core.available_devices)}; install the drivers "
                "of Intel's GPU"
            )
        if self.path.suffix == ".pdmodel":
            check_weights(model_files(self.path)[1], read_program(self.path))
        try:
            with native_silence():
                model = core.read_model(self.path)
        except Exception as error:
            raise self._refuse(f"cannot load it: {reason(error)}") from error
        able = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
        self._check_precision(model, able)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Left to itself it takes bfloat16 on CPUs that have it.
            "INFERENCE_PRECISION_HINT": "f16" if self.precision == "fp16" else "f32",
        }
        if self.device == "cpu":
            settings["INFERENCE_NUM_THREADS"] = self.threads
            # A thread that is bound to a core waits for whatever else runs there.
            settings["ENABLE_CPU_PINNING"] = False
        try:
            self._request = core.compile_model(model, name, settings).create_infer_request()
        except Exception as error:
            raise self._refuse(f"cannot load it: {reason(error)}") from error
        self.inputs = tuple(self._tensor(port) for port in model.inputs)
        self.outputs = tuple(self._tensor(port) for port in model.outputs)
        self._model = model if any(-1 in tensor.shape[1:] for tensor in self.inputs) else None
        self._known: set[tuple[tuple[int, ...], ...]] = set()

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        self._check_sizes(arrays)
        found = self._request.infer(arrays, share_inputs=True)
        return [found[i] for i in range(len(self.outputs))]

    def _check_sizes(self, arrays: list[np.ndarray]) -> None:
        """RuntimeError for sizes that do not go through the network: at run time OpenVINO gives
        something for them."""
        sizes = tuple(array.shape[1:] for array in arrays)
        if self._model is None or sizes in self._known:
            return
        self._model.reshape({i: array.shape for i, array in enumerate(arrays)})
        self._known.add(sizes)

    def _tensor(self, port: Any) -> Tensor:
        name = port.get_any_name() if port.names else port.node.friendly_name
        sizes = port.partial_shape
        if sizes.rank.is_dynamic:
            raise self._refuse(f"{name} has no fixed number of axes")
        shape = tuple(-1 if size.is_dynamic else size.get_length() for size in sizes)
        return Tensor(name, np.dtype(port.element_type.to_dtype()).name, shape)

    def _check_precision(self, model: Any, able: list[str]) -> None:
        quantized = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        if self.precision == "int8" and not quantized:
            raise self._refuse("a float model; export a quantized network for int8")
        if self.precision == "fp32" and quantized:
            raise self._refuse("an int8 model, which it runs in int8 only")
        if self.precision == "fp16" and "FP16" not in able:
            kinds = ", ".join(sorted({"FP32", "BF16", "INT8"}.intersection(able)))
            raise self._refuse(f"this {self.device} computes in {kinds}, not in fp16; take fp32")


@cache
def _core() -> openvino.Core:
    """One for the process.

    Its plugin for CPUs gives signals a stack, and takes it back when the core goes; of several
    cores one would leave the stack of another, and the next Ctrl-C would end the process.
    """
    return openvino.Core()
