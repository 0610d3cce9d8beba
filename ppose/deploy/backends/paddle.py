"""Paddle Inference backend, on CPUs and GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppose.deploy.backends.model_files import model_files
from ppose.deploy.backends.paddle_engines import (
    ENGINES,
    Predictor,
    SharedPredictors,
    cuda_predictor,
    onednn_predictor,
    openvino_unsupported_reason,
    plain_predictor,
)
from ppose.deploy.backends.paddle_files import ProgramInfo, check_weights, read_program
from ppose.deploy.backends.paddle_trial import trust, try_program
from ppose.deploy.backends.session import Session, error_summary
from ppose.deploy.backends.settings import BackendError, SettingError
from ppose.deploy.backends.timing import example_inputs

_OPENVINO = SharedPredictors()


class PaddleSession(Session):
    """A model in Paddle's legacy format (`.pdmodel`) or that of Paddle 3 (`.json`).

    On CPUs with VNNI int8 results equal those of the quantized network up to rounding. On other
    CPUs oneDNN uses 7 bits of the weights to prevent overflow (oneDNN's "Nuances of int8
    computations").

    Args:
        path, device, precision, threads: see `Session`.
        engine: one of `ENGINES`, on a CPU; None for the fastest that can run the model. Only the
            first few models of a process run in OpenVINO, whose memory is never freed.
    """

    backend = "paddle"

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        engine: str | None = None,
    ):
        if engine not in (None, *ENGINES) or (engine and device == "gpu"):
            raise SettingError(
                f"engine: expected one of {', '.join(ENGINES)}, on a CPU, found {engine!r} on a "
                f"{device}"
            )
        if precision == "int8" and engine == "plain":
            raise SettingError("int8 needs the engine onednn")
        self._requested_engine = engine
        super().__init__(path, device=device, precision=precision, threads=threads)

    def _load(self) -> None:
        files = model_files(self.path)
        program = read_program(files[0])
        check_weights(files[1], program)
        self._check_precision(program)
        if self.device == "gpu":
            self._check_gpu()
        try_program(
            files,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            engine=self._requested_engine,
        )
        try:
            self._predictor = self._create_predictor(files, program)
        except BackendError:
            raise
        except Exception as error:
            raise self._error(f"cannot load it: {error_summary(error)}") from error
        self.inputs = tuple(program.tensors[name] for name in self._predictor.input_names)
        self.outputs = tuple(program.tensors[name] for name in self._predictor.output_names)

    def _create_predictor(self, files: Sequence[Path], program: ProgramInfo) -> Predictor:
        options: Any = {"legacy": self.path.suffix == ".pdmodel", "threads": self.threads}
        if self.device == "gpu":
            return cuda_predictor(files, precision=self.precision, **options)
        if self._requested_engine in (None, "openvino"):
            why = openvino_unsupported_reason(program, precision=self.precision, **options)
            if not (why or self._requested_engine or _OPENVINO.has_room(files, self.threads)):
                why = "too many models are loaded"
            if not why:
                try:
                    predictor = _OPENVINO.get(files, program, self.threads)
                except OSError as error:
                    why = f"cannot write temporary files: {error}"
                else:
                    self.engine = "openvino"
                    return predictor
            if self._requested_engine:
                raise self._error(f"the engine openvino cannot run it: {why}")
        if self._requested_engine == "plain":
            self.engine = "plain"
            return plain_predictor(files, **options)
        self.engine = "onednn"
        return onednn_predictor(files, program, precision=self.precision, **options)

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        outputs = self._predictor.run(arrays)
        if self.engine == "openvino":
            self._check_batch_size(arrays, outputs)
        return outputs

    def _check_batch_size(self, arrays: list[np.ndarray], outputs: list[np.ndarray]) -> None:
        """Detects failed runs in OpenVINO; Paddle only logs them and returns the last output."""
        count = next(
            (len(a) for t, a in zip(self.inputs, arrays, strict=True) if t.dynamic_batch), 0
        )
        for tensor, output in zip(self.outputs, outputs, strict=True):
            if count and tensor.dynamic_batch and len(output) != count:
                raise RuntimeError(
                    f"its OpenVINO returned {len(output)} outputs for {count} inputs; the log may "
                    "say why"
                )

    def _check_precision(self, program: ProgramInfo) -> None:
        if self.precision == "int8":
            if "quantize_linear" not in program.op_types:
                raise self._error("a float model; export a quantized network for int8")
            if self.device == "gpu":
                raise self._error("int8 runs on CPUs only; a GPU would need TensorRT")
            if self.path.suffix != ".pdmodel":
                raise self._error(
                    "int8 needs the legacy format, .pdmodel; export the network again"
                )
        elif self.precision == "fp16" and self.device == "cpu":
            raise self._error(
                "fp16 needs a GPU; on a CPU use fp32, or int8 with a quantized network"
            )

    def _check_gpu(self) -> None:
        if not paddle.is_compiled_with_cuda():
            raise self._error(
                "this build of Paddle is for CPUs only; install paddlepaddle-gpu instead"
            )
        if paddle.device.cuda.device_count() == 0:
            raise self._error("Paddle finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES")


def trial(path: str, device: str, precision: str, threads: str, engine: str) -> None:
    """The process of `ppose.deploy.backends.paddle_trial`: runs a model once, and ends with 0.

    What is raised here will be raised, and reported, where the model is used.
    """
    trust(model_files(Path(path)))
    with suppress(Exception):
        session = PaddleSession(
            path, device=device, precision=precision, threads=int(threads), engine=engine or None
        )
        session.run(*example_inputs(session))
    os._exit(0)
