"""ONNX Runtime, on CPUs and through CUDA."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from ppose.deploy.backends import wire
from ppose.deploy.session import BackendError, Session, Tensor, reason

_DTYPES = {
    **{"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"},
    **{"tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(int16)": "int16"},
    **{"tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool"},
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
# What a quantized model is made of.
_INT8_KINDS = {"QuantizeLinear", "QLinearConv", "ConvInteger"}
_FLOAT16 = 10  # TensorProto.DataType of onnx.proto
_FATAL = 4  # of its loggers' levels; errors are raised too


class OnnxRuntimeSession(Session):
    """A model in ONNX; an int8 one has its quantization as operators (QDQ or QLinear)."""

    backend = "onnxruntime"

    def _load(self) -> None:
        self._check_precision(_read_content(self.path))
        provider = _PROVIDERS[self.device]
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise self._refuse(
                f"this build has no {provider} but {', '.join(available)}; pip install "
                "onnxruntime-gpu in its place"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        # Else its threads keep the cores busy for a while behind each run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.precision == "fp32":
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=[provider]
            )
        except Exception as error:
            raise self._refuse(f"cannot load it: {reason(error)}") from error
        # It goes on with the CPU where CUDA's libraries are missing.
        if provider not in self._session.get_providers():
            raise self._refuse(
                "CUDA cannot be started; install the CUDA and cuDNN it was built for"
            )
        self.inputs = tuple(self._tensor(node) for node in self._session.get_inputs())
        self.outputs = tuple(self._tensor(node) for node in self._session.get_outputs())

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        names = (tensor.name for tensor in self.inputs)
        found: list[np.ndarray] = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return found

    def _tensor(self, node: onnxruntime.NodeArg) -> Tensor:
        if node.type not in _DTYPES:
            raise self._refuse(f"{node.name} is a {node.type}; expected an array of numbers")
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        return Tensor(node.name, _DTYPES[node.type], shape)

    def _check_precision(self, content: _Content) -> None:
        quantized = bool(content.kinds & _INT8_KINDS)
        if self.precision == "int8" and not quantized:
            raise self._refuse("a float model; export a quantized network for int8")
        if self.precision == "fp16":
            if not content.half:
                raise self._refuse("it computes in the precision of the model, which has no fp16")
            if self.device == "cpu":
                raise self._refuse("fp16 runs on a GPU only; on a CPU take fp32")


@dataclass(frozen=True)
class _Content:
    """Of a model: kinds of its operators, and whether it has weights in fp16."""

    kinds: frozenset[str]
    half: bool


def _read_content(path: Path) -> _Content:
    """Of onnx.proto: ModelProto 7 graph; GraphProto 1 node, 5 initializer; NodeProto 4 op_type;
    TensorProto 2 data_type."""
    try:
        with path.open("rb") as file:
            return _content(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except ValueError as error:
        raise BackendError(
            f"{path}: damaged, or no ONNX model ({error}); copy or export the model again"
        ) from None


def _content(model: memoryview) -> _Content:
    kinds, half = set(), False
    for graph in wire.messages(model, 7):
        for number, part in wire.fields(graph):
            if isinstance(part, int):
                continue
            if number == 1:
                kinds.add(wire.text(part, 4))
            elif number == 5:
                half = half or wire.first(part, 2) == _FLOAT16
    if not kinds:
        raise ValueError("it has no operators")
    return _Content(frozenset(kinds), half)
