"""Paddle Inference: on CPUs through oneDNN, float and int8, and on GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle.inference import Config, PrecisionType, create_predictor

from ppose.deploy.backends.paddle_files import Program, check_weights, read_program
from ppose.deploy.session import (
    BackendError,
    Session,
    SettingError,
    find_model,
    model_files,
    reason,
)
from ppose.deploy.timing import some_inputs
from ppose.log import native_silence

# Passes that look for batch norms; in large networks that takes long.
_NORM_PASSES = (
    "conv_bn_fuse_pass",
    "conv_eltwiseadd_bn_fuse_pass",
    "conv_affine_channel_onednn_fuse_pass",
    "conv_transpose_bn_fuse_pass",
    "conv_transpose_eltwiseadd_bn_fuse_pass",
)
_NORMS = {"batch_norm", "affine_channel"}
_RESIDUAL = "conv_elementwise_add_onednn_fuse_pass"
_INT8 = {"conv2d", "depthwise_conv2d", "fused_conv2d"}
_GPU_POOL = 256  # MiB at first


class PaddleSession(Session):
    """A model in Paddle's old form (`.pdmodel`) or that of Paddle 3 (`.json`).

    int8 gives what the quantized network gives, up to rounding, on CPUs with VNNI. On others
    oneDNN takes 7 bits of the weights, lest its sums overflow (oneDNN's "Nuances of int8
    computations").

    Args:
        path, device, precision, threads: as of `Session`.
        onednn: on a CPU, run by oneDNN; off by Paddle's own kernels, float ones.
    """

    backend = "paddle"

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        onednn: bool = True,
    ):
        super().__init__(path, device, precision, threads)
        if precision == "int8" and not onednn:
            raise SettingError("int8 kernels are oneDNN's: onednn has to be on")
        file, weights = model_files(self.path)
        program = read_program(file)
        check_weights(weights, program)
        self._check_precision(program)
        config = Config(str(file), str(weights))
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(self.threads)
        if device == "gpu":
            self._use_gpu(config)
        else:
            self._use_cpu(config, program, onednn)
        if self._old_form:
            config.enable_memory_optim()
        with native_silence():
            try:
                self._predictor = create_predictor(config)
            except Exception as error:
                raise self._refuse(f"cannot load it: {reason(error)}") from error
        sources, results = self._predictor.get_input_names(), self._predictor.get_output_names()
        self.inputs = tuple(program.tensors[name] for name in sources)
        self.outputs = tuple(program.tensors[name] for name in results)
        self._sources = [self._predictor.get_input_handle(name) for name in sources]
        self._results = [self._predictor.get_output_handle(name) for name in results]

    @property
    def _old_form(self) -> bool:
        return self.path.suffix == ".pdmodel"

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        for source, array in zip(self._sources, arrays, strict=True):
            source.copy_from_cpu(array)
        self._predictor.run()
        return [result.copy_to_cpu() for result in self._results]

    def _check_precision(self, program: Program) -> None:
        if self.precision == "int8":
            if "quantize_linear" not in program.kinds:
                raise self._refuse("a float model; export a quantized network for int8")
            if self.device == "gpu":
                raise self._refuse("int8 runs on a CPU; on a GPU it would take TensorRT")
            if not self._old_form:
                raise self._refuse("int8 takes the old form, .pdmodel; export the network again")
        elif self.precision == "fp16" and self.device == "cpu":
            raise self._refuse(
                "fp16 runs on a GPU only; on a CPU take fp32, or int8 with a quantized network"
            )

    def _use_gpu(self, config: Config) -> None:
        if not paddle.is_compiled_with_cuda():
            raise self._refuse(
                "this build of Paddle is for CPUs; install paddlepaddle-gpu in its place"
            )
        if paddle.device.cuda.device_count() == 0:
            raise self._refuse("Paddle sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
        half = PrecisionType.Half if self.precision == "fp16" else PrecisionType.Float32
        config.enable_use_gpu(_GPU_POOL, 0, half)

    def _use_cpu(self, config: Config, program: Program, onednn: bool) -> None:
        config.disable_gpu()
        if not onednn:
            config.disable_mkldnn()
            return
        config.enable_mkldnn()
        if not self._old_form:
            # Of Paddle 3.3 it fails on resizing; convolutions are oneDNN's without it.
            config.delete_pass("onednn_placement_pass")
            return
        int8 = self.precision == "int8"
        if int8:
            config.enable_mkldnn_int8(_INT8)
            passes = config.pass_builder()
            # Known to the pass list of float only.
            at = passes.all_passes().index("batch_norm_act_fuse_pass")
            passes.insert_pass(at, "elementwise_act_onednn_fuse_pass")
        # What they would fold into int8 weights would be rounded again.
        if int8 or not program.kinds & _NORMS:
            for name in _NORM_PASSES:
                config.delete_pass(name)
        # A sum inside an int8 convolution rounds what is added to it, which training does not.
        # Float networks of depthwise convolutions have few such sums, and looking for them takes
        # long.
        if int8 or "depthwise_conv2d" in program.kinds:
            config.delete_pass(_RESIDUAL)


@dataclass(frozen=True)
class Kernels:
    """Convolutions of one run.

    Attributes:
        int8, float32: how many have weights of that type.
        names: kernel → how often it ran, such as brgconv:avx512_core_vnni.
    """

    int8: int
    float32: int
    names: dict[str, int]


def int8_kernels(model: str | Path, *, precision: str = "int8") -> Kernels:
    """Which kernels run the convolutions of a model, as oneDNN itself reports.

    A process of its own runs one input: oneDNN decides what to report when it starts.

    Args:
        model: its file or folder.
        precision: in which it runs.

    Raises:
        BackendError: the model cannot be loaded or run.
    """
    path = find_model(model, "paddle")
    code = f"import sys; from {__name__} import _run_once; _run_once(*sys.argv[1:])"
    root = str(Path(__file__).parents[3])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, "-c", code, str(path), precision],
        env={**os.environ, "ONEDNN_VERBOSE": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if run.returncode:
        said = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise BackendError(f"{path}: cannot be run: {''.join(said)}")
    found = _CONVOLUTION.findall(run.stdout)
    types = Counter(kind for _, kind in found)
    return Kernels(types["s8"], types["f32"], dict(Counter(name for name, _ in found)))


# onednn_verbose,v1,primitive,exec,cpu,convolution,KERNEL,forward_inference,src:… wei:TYPE:…
_CONVOLUTION = re.compile(
    r"^onednn_verbose,.*?\bexec,cpu,convolution,([^,]*),.*?\bwei:(\w+):", re.M
)


def _run_once(path: str, precision: str) -> None:
    session = PaddleSession(path, precision=precision)
    session.run(*some_inputs(session))
