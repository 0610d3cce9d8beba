"""What runs a program inside Paddle Inference: OpenVINO, oneDNN, Paddle's own kernels, or CUDA."""

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

from ppose.cpu import usable_cores
from ppose.deploy.backends.paddle_files import Program, with_own_name
from ppose.log import native_silence

# On a CPU, the fastest first.
ENGINES = ("openvino", "onednn", "plain")

# Of which the two engines are known to compute the same.
_KNOWN_TO_OPENVINO = {
    *("feed", "fetch", "cast", "transpose2", "scale", "conv2d", "depthwise_conv2d", "pool2d"),
    *("batch_norm", "relu", "leaky_relu", "sigmoid", "elementwise_add", "elementwise_mul"),
    *("matmul_v2", "reduce_mean"),
    *("nearest_interp_v2", "bilinear_interp_v2", "concat", "split", "flatten_contiguous_range"),
    *("unsqueeze2", "squeeze2", "reshape2", "expand_v2", "pad3d"),
    *("gather", "take_along_axis", "top_k_v2"),
}
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


class Predictor:
    """A program that Paddle has loaded. Several threads may call it, and wait for each other.

    Attributes:
        sources, results: names of what goes in and comes out.
    """

    def __init__(self, config: Config):
        with native_silence():
            self._predictor = create_predictor(config)
        self.sources: list[str] = self._predictor.get_input_names()
        self.results: list[str] = self._predictor.get_output_names()
        self._inputs = [self._predictor.get_input_handle(name) for name in self.sources]
        self._outputs = [self._predictor.get_output_handle(name) for name in self.results]
        self._lock = Lock()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            for source, array in zip(self._inputs, arrays, strict=True):
                source.copy_from_cpu(array)
            self._predictor.run()
            return [result.copy_to_cpu() for result in self._outputs]


class SharedEngines:
    """Programs in the OpenVINO that Paddle's builds for x86 have inside.

    Paddle keeps each of them until the process ends, so sessions of the same files share one, and
    there is room for a few. It tells them apart by the names of their variables alone, so each
    gets a name of its own.
    """

    ROOM = 8

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Predictor] = {}
        self._loading: dict[tuple[object, ...], Lock] = defaultdict(Lock)
        self._lock = Lock()
        self._numbers = count()

    def has_room(self, files: Sequence[Path], threads: int) -> bool:
        """Whether a program has its engine already, or may have one."""
        return len(self._kept) < self.ROOM or _key(files, threads) in self._kept

    def get(self, files: Sequence[Path], program: Program, threads: int) -> Predictor:
        """The engine of a program and its weights."""
        key = _key(files, threads)
        with self._lock:
            loading = self._loading[key]
        with loading:
            if key not in self._kept:
                self._kept[key] = _openvino(files, program, threads, next(self._numbers))
            return self._kept[key]


def why_not_openvino(program: Program, *, old_form: bool, precision: str, threads: int) -> str:
    """What keeps a program out of Paddle's OpenVINO; empty if nothing does."""
    if not old_form:
        return "it takes the old form, .pdmodel"
    if precision == "int8":
        return "it rounds in other places than training did"
    if unknown := sorted(program.kinds - _KNOWN_TO_OPENVINO):
        return f"it has not been compared on {', '.join(unknown)}"
    # Paddle only logs what goes wrong in its runs, as sizes can, and hands on the output before,
    # which is noticed where it is for another number of pictures.
    if any(side < 0 for tensor in program.tensors.values() for side in tensor.shape[1:]):
        return "it takes pictures of one size"
    if len({program.tensors[name].open_batch for name in program.ends}) > 1:
        return "it takes as many pictures as it gives results"
    # It binds threads to the first cores, where those of other processes would be too.
    if threads not in (1, usable_cores()):
        return f"it takes 1 thread or all {usable_cores()}, not {threads}"
    if not program.convolved:
        return "it takes networks with convolutions"
    if not _has_openvino():
        return "this build of Paddle has none"
    return ""


def onednn(
    files: Sequence[Path], program: Program, *, old_form: bool, precision: str, threads: int
) -> Predictor:
    config = _config(files, threads)
    config.disable_gpu()
    config.enable_mkldnn()
    if not old_form:
        # Of Paddle 3.3 it fails on resizing; convolutions are oneDNN's without it.
        config.delete_pass("onednn_placement_pass")
        return Predictor(config)
    int8 = precision == "int8"
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
    # A sum inside an int8 convolution rounds what is added to it, which training does not. Float
    # networks of depthwise convolutions have few such sums, and looking for them takes long.
    if int8 or "depthwise_conv2d" in program.kinds:
        config.delete_pass(_RESIDUAL)
    config.enable_memory_optim()
    return Predictor(config)


def plain(files: Sequence[Path], *, old_form: bool, threads: int) -> Predictor:
    """Paddle's own kernels on a CPU."""
    config = _config(files, threads)
    config.disable_gpu()
    config.disable_mkldnn()
    if old_form:
        config.enable_memory_optim()
    return Predictor(config)


def cuda(files: Sequence[Path], *, old_form: bool, precision: str, threads: int) -> Predictor:
    config = _config(files, threads)
    half = PrecisionType.Half if precision == "fp16" else PrecisionType.Float32
    config.enable_use_gpu(_GPU_POOL, 0, half)
    if old_form:
        config.enable_memory_optim()
    return Predictor(config)


def _openvino(files: Sequence[Path], program: Program, threads: int, number: int) -> Predictor:
    # It keeps what it compiled, by default where the user stands, and would take it for good.
    with tempfile.TemporaryDirectory(prefix="ppose-") as folder:
        own, weights = (Path(folder, file.name) for file in files)
        own.write_bytes(with_own_name(files[0].read_bytes(), program, f"ppose.{number}"))
        weights.symlink_to(files[1].resolve())  # it looks for them there too
        config = _config([own, weights], threads)
        config.disable_gpu()
        config.enable_openvino_engine(PrecisionType.Float32)
        config.set_optim_cache_dir(folder)
        return Predictor(config)


@cache
def _has_openvino() -> bool:
    config = Config()
    if not hasattr(config, "enable_openvino_engine"):
        return False
    with native_silence():
        config.enable_openvino_engine(PrecisionType.Float32)
    return bool(config.openvino_engine_enabled())


def _config(files: Sequence[Path], threads: int) -> Config:
    config = Config(*map(str, files))
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    return config


def _key(files: Sequence[Path], threads: int) -> tuple[object, ...]:
    """What files, as they are now, and a setting lead to."""
    found = [file.stat() for file in files]
    return threads, *((f.st_dev, f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for f in found)
