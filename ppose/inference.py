"""Exported networks run by Paddle Inference, what int8 does in them, and how long they take."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.inference import Config, create_predictor

from ppose.cpu import usable_cores
from ppose.errors import PposeError
from ppose.log import native_silence

PROGRAM, WEIGHTS, DESCRIPTION = "model.pdmodel", "model.pdiparams", "network.json"
FORM = "ppose network 1"

# Batch norms are folded at export; looking for them takes long in large networks.
_USELESS = (
    "conv_bn_fuse_pass",
    "conv_eltwiseadd_bn_fuse_pass",
    "conv_affine_channel_onednn_fuse_pass",
    "conv_transpose_bn_fuse_pass",
    "conv_transpose_eltwiseadd_bn_fuse_pass",
)
_RESIDUAL = "conv_elementwise_add_onednn_fuse_pass"
_INT8 = {"conv2d", "depthwise_conv2d", "fused_conv2d"}


class ExportError(PposeError):
    """A folder is no usable export; the message says why."""


class ExportedNetwork:
    """A network that `ppose.export` wrote, in the place of the one that it was made from.

    A `PoseEstimator` takes it as its network. Not for several threads at once.

    int8 gives what the quantized network gives, up to rounding, on CPUs with VNNI. On others
    oneDNN takes 7 bits of the weights, lest its sums overflow (oneDNN's "Nuances of int8
    computations").

    Args:
        folder: of the export.
        int8: run an int8 network by oneDNN's int8 kernels; None where it is one. Off, its rounding
            is computed in float, which is slow and meant for comparison.
        threads: of the CPU; None for OMP_NUM_THREADS, or all cores.
        onednn: run by oneDNN; off by Paddle's own kernels, float ones.

    Attributes:
        stride, size_multiple, channels: as of the network.
        input_shape: (N, 3, H, W), -1 where open.
        int8: convolutions that are written in int8.

    Raises:
        ExportError: the folder is missing, foreign, damaged, or has no int8 that was asked for.
    """

    training = False

    def __init__(
        self,
        folder: str | Path,
        *,
        int8: bool | None = None,
        threads: int | None = None,
        onednn: bool = True,
    ):
        folder = Path(folder)
        description = _description(folder)
        if int8 and not description["int8"]:
            raise ExportError(f"{folder}: a float network; export a quantized one for int8")
        if int8 and not onednn:
            raise ValueError("int8 kernels are oneDNN's: onednn has to be on")
        self.folder = folder
        self.stride: int = description["stride"]
        self.size_multiple: int = description["size_multiple"]
        self.channels: int = description["channels"]
        self.input_shape: tuple[int, ...] = tuple(description["input"])
        self.int8: int = description["int8"]
        config = Config(str(folder / PROGRAM), str(folder / WEIGHTS))
        if int8 is None:
            int8 = onednn and self.int8 > 0
        _configure(config, description, int8, onednn)
        config.set_cpu_math_library_num_threads(threads or _threads())
        with native_silence():
            try:
                self._predictor = create_predictor(config)
            except RuntimeError as error:
                raise ExportError(f"{folder}: Paddle cannot load it: {error}") from error
        (source,) = self._predictor.get_input_names()
        (result,) = self._predictor.get_output_names()
        self._images = self._predictor.get_input_handle(source)
        self._maps = self._predictor.get_output_handle(result)

    def eval(self) -> ExportedNetwork:
        """Itself: it is in eval mode always."""
        return self

    def __call__(self, images: Any) -> Any:
        """Images (N, 3, H, W) float32 → maps (N, channels, H/stride, W/stride); an array for an
        array, a tensor for a tensor.

        Raises:
            ValueError: images of another shape or type.
        """
        array = images.numpy() if isinstance(images, Tensor) else np.asarray(images)
        self._check(array)
        self._images.copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        maps = self._maps.copy_to_cpu()
        return paddle.to_tensor(maps) if isinstance(images, Tensor) else maps

    def some_images(self, batch: int, size_wh: tuple[int, int] | None = None) -> np.ndarray:
        """Noise that it takes, always the same; open sizes are 4 × `size_multiple` unless given."""
        shape = [batch, *self.input_shape[1:]]
        if size_wh is not None:
            shape[2:] = size_wh[::-1]
        shape = [4 * self.size_multiple if side < 0 else side for side in shape]
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def _check(self, images: np.ndarray) -> None:
        wanted, multiple = self.input_shape, self.size_multiple
        fits = images.ndim == 4 and all(
            a == b or (b < 0 < a) for a, b in zip(images.shape, wanted, strict=True)
        )
        if not fits or images.dtype != np.float32 or any(s % multiple for s in images.shape[2:]):
            sides = ", ".join("any" if side < 0 else str(side) for side in wanted)
            raise ValueError(
                f"{self.folder} takes float32 images ({sides}) with H and W multiples of "
                f"{multiple}, found {images.dtype} {images.shape}"
            )


def _threads() -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() and int(threads) else usable_cores()


def _configure(config: Config, description: dict[str, Any], int8: bool, onednn: bool) -> None:
    config.disable_gpu()
    config.disable_glog_info()
    config.enable_memory_optim()
    if onednn:
        config.enable_mkldnn()
    if int8:
        config.enable_mkldnn_int8(_INT8)
        passes = config.pass_builder()
        # Known to the pass list of float only.
        at = passes.all_passes().index("batch_norm_act_fuse_pass")
        passes.insert_pass(at, "elementwise_act_onednn_fuse_pass")
    useless = list(_USELESS)
    # A sum inside an int8 convolution rounds what is added to it, which training does not. Float
    # networks of depthwise convolutions have few such sums, and looking for them takes long.
    if int8 or description["depthwise"]:
        useless.append(_RESIDUAL)
    for name in useless:
        config.delete_pass(name)


def _description(folder: Path) -> dict[str, Any]:
    """What `network.json` says, after a look at the files it describes."""
    path = folder / DESCRIPTION
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; export a network there first")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(
            f"{folder}: no export of ppose, as it has no {DESCRIPTION}; it has "
            f"{sorted(p.name for p in folder.iterdir())[:5]}"
        ) from None
    except ValueError as error:
        raise ExportError(f"{path}: damaged: {error}; export the network again") from None
    if not isinstance(description, dict) or description.get("form") != FORM:
        raise ExportError(f"{path}: expected the form '{FORM}'; export the network again")
    _check_fields(path, description)
    for name, wanted in description["sha256"].items():
        file = folder / name
        if not file.is_file():
            raise ExportError(f"{file}: missing; export the network again")
        if file_hash(file) != wanted:
            raise ExportError(
                f"{file}: damaged or of another export than {DESCRIPTION}; export the network again"
            )
    return description


_FIELDS = {
    **{"stride": int, "size_multiple": int, "channels": int, "int8": int},
    **{"depthwise": bool, "input": list, "sha256": dict},
}


def _check_fields(path: Path, description: dict[str, Any]) -> None:
    for name, kind in _FIELDS.items():
        found = description.get(name)
        if type(found) is not kind:
            raise ExportError(
                f"{path}: {name}: expected {kind.__name__}, found {found!r}; export it again"
            )
    shape, hashes = description["input"], description["sha256"]
    if len(shape) != 4 or any(type(side) is not int for side in shape):
        raise ExportError(f"{path}: input: expected four numbers, found {shape}")
    if set(hashes) != {PROGRAM, WEIGHTS}:
        raise ExportError(f"{path}: sha256: expected {PROGRAM} and {WEIGHTS}, found {list(hashes)}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def int8_kernels(folder: str | Path, *, int8: bool | None = None) -> Kernels:
    """Which kernels run the convolutions of an export, as oneDNN itself reports.

    A process of its own runs one input: oneDNN decides what to report when it starts.

    Args:
        folder, int8: as of `ExportedNetwork`.

    Raises:
        ExportError: the network cannot be loaded or run.
    """
    _description(Path(folder))
    code = "import sys; from ppose.inference import _run_once; _run_once(sys.argv[1], sys.argv[2])"
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(int8)],
        env={**os.environ, "ONEDNN_VERBOSE": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if run.returncode:
        reason = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise ExportError(f"{folder}: cannot be run: {''.join(reason)}")
    found = _CONVOLUTION.findall(run.stdout)
    types = Counter(kind for _, kind in found)
    return Kernels(types["s8"], types["f32"], dict(Counter(name for name, _ in found)))


# onednn_verbose,v1,primitive,exec,cpu,convolution,KERNEL,forward_inference,src:… wei:TYPE:…
_CONVOLUTION = re.compile(
    r"^onednn_verbose,.*?\bexec,cpu,convolution,([^,]*),.*?\bwei:(\w+):", re.M
)


def _run_once(folder: str, int8: str) -> None:
    network = ExportedNetwork(folder, int8=json.loads(int8))
    network(network.some_images(1))


def latencies(
    networks: Sequence[ExportedNetwork],
    batch: int = 1,
    *,
    size_wh: tuple[int, int] | None = None,
    runs: int = 50,
    warmup: int = 5,
) -> list[tuple[float, float]]:
    """Milliseconds of a run of each network, from array to array; all take turns.

    Args:
        networks: of one or several exports.
        batch: inputs in a run.
        size_wh: of an input; None for that of each export.
        runs: that are timed.
        warmup: runs before.

    Returns:
        the 50th and 95th percentile of each network.

    Raises:
        ValueError: a network does not take such a batch or size.
    """
    inputs = [network.some_images(batch, size_wh) for network in networks]
    times = np.empty((runs, len(networks)))
    for i in range(-warmup, runs):
        for n, (network, images) in enumerate(zip(networks, inputs, strict=True)):
            start = time.perf_counter()
            network(images)
            if i >= 0:
                times[i, n] = time.perf_counter() - start
    p50, p95 = np.percentile(1000 * times, [50, 95], axis=0).tolist()
    return list(zip(p50, p95, strict=True))
