"""ONNX Runtime backend, on CPUs and CUDA GPUs."""

from __future__ import annotations

import numpy as np
import onnxruntime

from ppose.deploy.backends.onnx_file import OnnxInfo, read_onnx
from ppose.deploy.backends.session import Session, TensorInfo, error_summary

_DTYPES = {
    **{"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"},
    **{"tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(int16)": "int16"},
    **{"tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool"},
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
# Operators of quantized models.
_INT8_OPS = {"QuantizeLinear", "QLinearConv", "ConvInteger"}
_FATAL = 4  # log severity; errors are raised anyway


class OnnxRuntimeSession(Session):
    """An ONNX model; int8 models contain quantization operators (QDQ or QLinear)."""

    backend = "onnxruntime"

    def _load(self) -> None:
        self._check_precision(read_onnx(self.path))
        provider = _PROVIDERS[self.device]
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise self._error(
                f"this build has no {provider} but {', '.join(available)}; pip install "
                "onnxruntime-gpu instead"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        # Otherwise its threads spin for a while after each run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.precision == "fp32":
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=[provider]
            )
        except Exception as error:
            raise self._error(f"cannot load it: {error_summary(error)}") from error
        # It falls back to the CPU if CUDA libraries are missing.
        if provider not in self._session.get_providers():
            raise self._error(
                "CUDA cannot be initialized; install the CUDA and cuDNN versions it was built for"
            )
        self.inputs = tuple(self._tensor(node) for node in self._session.get_inputs())
        self.outputs = tuple(self._tensor(node) for node in self._session.get_outputs())

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        names = (tensor.name for tensor in self.inputs)
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    def _tensor(self, node: onnxruntime.NodeArg) -> TensorInfo:
        if node.type not in _DTYPES:
            raise self._error(f"{node.name} has the type {node.type}; expected a numeric tensor")
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        return TensorInfo(node.name, _DTYPES[node.type], shape)

    def _check_precision(self, content: OnnxInfo) -> None:
        quantized = bool(content.op_types & _INT8_OPS)
        if self.precision == "int8" and not quantized:
            raise self._error("a float model; export a quantized network for int8")
        if self.precision == "fp16":
            if not content.has_fp16:
                raise self._error(
                    "it computes in the precision of the model, which has no fp16 weights"
                )
            if self.device == "cpu":
                raise self._error("fp16 needs a GPU; use fp32 on a CPU")
