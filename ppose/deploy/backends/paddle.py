"""Paddle Inference, on CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppose.deploy.backends.paddle_engines import (
    ENGINES,
    Predictor,
    SharedEngines,
    cuda,
    onednn,
    plain,
    why_not_openvino,
)
from ppose.deploy.backends.paddle_files import Program, check_weights, read_program
from ppose.deploy.session import BackendError, Session, SettingError, model_files, reason

_SHARED = SharedEngines()


class PaddleSession(Session):
    """A model in Paddle's old form (`.pdmodel`) or that of Paddle 3 (`.json`).

    int8 gives what the quantized network gives, up to rounding, on CPUs with VNNI. On others
    oneDNN takes 7 bits of the weights, lest its sums overflow (oneDNN's "Nuances of int8
    computations").

    Args:
        path, device, precision, threads: as of `Session`.
        engine: of `ENGINES`, on a CPU; None for the fastest that can run the model. The first
            few models of a process have room in OpenVINO, which never gives it back.
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
            raise SettingError("int8 kernels are oneDNN's: take the engine onednn")
        self._asked = engine
        super().__init__(path, device=device, precision=precision, threads=threads)

    def _load(self) -> None:
        files = model_files(self.path)
        program = read_program(files[0])
        check_weights(files[1], program)
        self._check_precision(program)
        try:
            self._predictor = self._predictor_of(files, program)
        except BackendError:
            raise
        except Exception as error:
            raise self._refuse(f"cannot load it: {reason(error)}") from error
        self.inputs = tuple(program.tensors[name] for name in self._predictor.sources)
        self.outputs = tuple(program.tensors[name] for name in self._predictor.results)

    def _predictor_of(self, files: Sequence[Path], program: Program) -> Predictor:
        how: Any = {"old_form": self.path.suffix == ".pdmodel", "threads": self.threads}
        if self.device == "gpu":
            self._check_gpu()
            return cuda(files, precision=self.precision, **how)
        if self._asked in (None, "openvino"):
            why = why_not_openvino(program, precision=self.precision, **how)
            if not (why or self._asked or _SHARED.has_room(files, self.threads)):
                why = "others have taken its room"
            if not why:
                try:
                    predictor = _SHARED.get(files, program, self.threads)
                except OSError as error:
                    why = f"it needs a folder for temporary files: {error}"
                else:
                    self.engine = "openvino"
                    return predictor
            if self._asked:
                raise self._refuse(f"not by the engine openvino: {why}")
        if self._asked == "plain":
            self.engine = "plain"
            return plain(files, **how)
        self.engine = "onednn"
        return onednn(files, program, precision=self.precision, **how)

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        results = self._predictor.run(arrays)
        if self.engine == "openvino":
            self._check_results(arrays, results)
        return results

    def _check_results(self, arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        """Paddle only logs what OpenVINO says of a run that failed, and hands on old results."""
        count = next((len(a) for t, a in zip(self.inputs, arrays, strict=True) if t.open_batch), 0)
        for tensor, result in zip(self.outputs, results, strict=True):
            if count and tensor.open_batch and len(result) != count:
                raise RuntimeError(
                    f"its OpenVINO gives {len(result)} results for {count} inputs; why may be "
                    "logged above"
                )

    def _check_precision(self, program: Program) -> None:
        if self.precision == "int8":
            if "quantize_linear" not in program.kinds:
                raise self._refuse("a float model; export a quantized network for int8")
            if self.device == "gpu":
                raise self._refuse("int8 runs on a CPU; on a GPU it would take TensorRT")
            if self.path.suffix != ".pdmodel":
                raise self._refuse("int8 takes the old form, .pdmodel; export the network again")
        elif self.precision == "fp16" and self.device == "cpu":
            raise self._refuse(
                "fp16 runs on a GPU only; on a CPU take fp32, or int8 with a quantized network"
            )

    def _check_gpu(self) -> None:
        if not paddle.is_compiled_with_cuda():
            raise self._refuse(
                "this build of Paddle is for CPUs; install paddlepaddle-gpu in its place"
            )
        if paddle.device.cuda.device_count() == 0:
            raise self._refuse("Paddle sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
