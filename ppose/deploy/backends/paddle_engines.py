"""Engines inside Paddle Inference: OpenVINO, oneDNN, Paddle's own kernels, or CUDA."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from threading import Lock

import numpy as np
from paddle.inference import Config, PrecisionType, create_predictor

from ppose.deploy.backends.paddle_files import ProgramInfo, with_unique_variable
from ppose.utils.cpu import usable_cores
from ppose.utils.log import silenced_native_stderr

# On a CPU, the fastest first.
ENGINES = ("openvino", "onednn", "plain")

# Operators for which the results of OpenVINO and oneDNN have been compared.
_OPENVINO_OPS = {
    *("feed", "fetch", "cast", "transpose2", "scale", "conv2d", "depthwise_conv2d", "pool2d"),
    *("batch_norm", "relu", "leaky_relu", "sigmoid", "elementwise_add", "elementwise_mul"),
    *("matmul_v2", "reduce_mean"),
    *("nearest_interp_v2", "bilinear_interp_v2", "concat", "split", "flatten_contiguous_range"),
    *("unsqueeze2", "squeeze2", "reshape2", "expand_v2", "pad3d"),
    *("gather", "take_along_axis", "top_k_v2"),
}
# Passes that fuse batch norms; they take long in large networks.
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
_GPU_POOL = 256  # initial size in MiB


class Predictor:
    """A loaded Paddle program. Thread-safe: concurrent calls run one after the other.

    Attributes:
        input_names, output_names: in the order of `run`.
    """

    def __init__(self, config: Config):
        with silenced_native_stderr():
            self._predictor = create_predictor(config)
        self.input_names: list[str] = self._predictor.get_input_names()
        self.output_names: list[str] = self._predictor.get_output_names()
        self._inputs = [self._predictor.get_input_handle(name) for name in self.input_names]
        self._outputs = [self._predictor.get_output_handle(name) for name in self.output_names]
        self._lock = Lock()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            for handle, array in zip(self._inputs, arrays, strict=True):
                handle.copy_from_cpu(array)
            self._predictor.run()
            return [handle.copy_to_cpu() for handle in self._outputs]


class SharedPredictors:
    """Predictors in the OpenVINO that Paddle's x86 builds contain, shared between sessions.

    Paddle keeps each program until the process ends. Sessions of the same files therefore share a
    predictor, and the number of predictors is limited. Paddle identifies programs by the names of
    their variables only, so each program gets a unique variable.
    """

    MAX_PREDICTORS = 8

    def __init__(self) -> None:
        self._predictors: dict[tuple[object, ...], Predictor] = {}
        self._loading: dict[tuple[object, ...], Lock] = defaultdict(Lock)
        self._lock = Lock()
        self._numbers = count()

    def has_room(self, files: Sequence[Path], threads: int) -> bool:
        """Whether the program is loaded already or can still be loaded."""
        return (
            len(self._predictors) < self.MAX_PREDICTORS or _key(files, threads) in self._predictors
        )

    def get(self, files: Sequence[Path], program: ProgramInfo, threads: int) -> Predictor:
        """The predictor of a program and its weights, loaded on first use."""
        key = _key(files, threads)
        with self._lock:
            loading = self._loading[key]
        with loading:
            if key not in self._predictors:
                self._predictors[key] = _openvino_predictor(
                    files, program, threads, next(self._numbers)
                )
            return self._predictors[key]


def openvino_unsupported_reason(
    program: ProgramInfo, *, legacy: bool, precision: str, threads: int
) -> str:
    """Why Paddle's OpenVINO cannot run a program; empty if it can.

    Args:
        program: the program.
        legacy: whether its format is `.pdmodel`.
        precision: one of `PRECISIONS`.
        threads: CPU threads.
    """
    if not legacy:
        return "it needs the legacy format, .pdmodel"
    if precision == "int8":
        return "it rounds differently than training"
    if unknown := sorted(program.op_types - _OPENVINO_OPS):
        return f"not verified for the operators {', '.join(unknown)}"
    # Paddle only logs failed runs, such as for unsupported sizes, and returns the previous output.
    # That can be detected only if the batch size differs.
    if any(side < 0 for tensor in program.tensors.values() for side in tensor.shape[1:]):
        return "it needs a fixed image size"
    if len({program.tensors[name].dynamic_batch for name in program.io_names}) > 1:
        return "inputs and outputs must all have a dynamic batch size, or none"
    # It pins threads to the first cores, which other processes would share.
    if threads not in (1, usable_cores()):
        return f"it needs 1 thread or all {usable_cores()}, not {threads}"
    if not program.conv_output:
        return "it needs a network with convolutions"
    if not _has_openvino():
        return "this build of Paddle does not contain it"
    return ""


def onednn_predictor(
    files: Sequence[Path], program: ProgramInfo, *, legacy: bool, precision: str, threads: int
) -> Predictor:
    """A predictor with oneDNN's kernels, on a CPU."""
    config = _config(files, threads)
    config.disable_gpu()
    config.enable_mkldnn()
    if not legacy:
        # In Paddle 3.3 it fails on resize operators; convolutions use oneDNN without it.
        config.delete_pass("onednn_placement_pass")
        return Predictor(config)
    int8 = precision == "int8"
    if int8:
        config.enable_mkldnn_int8(_INT8)
        passes = config.pass_builder()
        # By default only in the pass list for float.
        at = passes.all_passes().index("batch_norm_act_fuse_pass")
        passes.insert_pass(at, "elementwise_act_onednn_fuse_pass")
    # Batch norms folded into int8 weights would be rounded a second time.
    if int8 or not program.op_types & _NORMS:
        for name in _NORM_PASSES:
            config.delete_pass(name)
    # A sum fused into an int8 convolution is rounded, unlike in training. Float networks with
    # depthwise convolutions have few such sums, and the pass takes long.
    if int8 or "depthwise_conv2d" in program.op_types:
        config.delete_pass(_RESIDUAL)
    config.enable_memory_optim()
    return Predictor(config)


def plain_predictor(files: Sequence[Path], *, legacy: bool, threads: int) -> Predictor:
    """A predictor with Paddle's own kernels, on a CPU."""
    config = _config(files, threads)
    config.disable_gpu()
    config.disable_mkldnn()
    if legacy:
        config.enable_memory_optim()
    return Predictor(config)


def cuda_predictor(
    files: Sequence[Path], *, legacy: bool, precision: str, threads: int
) -> Predictor:
    """A predictor on a GPU."""
    config = _config(files, threads)
    half = PrecisionType.Half if precision == "fp16" else PrecisionType.Float32
    config.enable_use_gpu(_GPU_POOL, 0, half)
    if legacy:
        config.enable_memory_optim()
    return Predictor(config)


def _openvino_predictor(
    files: Sequence[Path], program: ProgramInfo, threads: int, number: int
) -> Predictor:
    # OpenVINO caches compiled programs, by default in the working directory, and would reuse them.
    with tempfile.TemporaryDirectory(prefix="ppose-") as folder:
        model, weights = (Path(folder, file.name) for file in files)
        model.write_bytes(with_unique_variable(files[0].read_bytes(), program, f"ppose.{number}"))
        weights.symlink_to(files[1].resolve())  # expected next to the model
        config = _config([model, weights], threads)
        config.disable_gpu()
        config.enable_openvino_engine(PrecisionType.Float32)
        config.set_optim_cache_dir(folder)
        return Predictor(config)


@cache
def _has_openvino() -> bool:
    config = Config()
    if not hasattr(config, "enable_openvino_engine"):
        return False
    with silenced_native_stderr():
        config.enable_openvino_engine(PrecisionType.Float32)
    return bool(config.openvino_engine_enabled())


def _config(files: Sequence[Path], threads: int) -> Config:
    config = Config(*map(str, files))
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    return config


def _key(files: Sequence[Path], threads: int) -> tuple[object, ...]:
    """Identifies files in their current state, and the number of threads."""
    stats = [file.stat() for file in files]
    return threads, *((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats)
