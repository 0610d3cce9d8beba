"""Writes bundles: a network for each kind of backend, and `pose.yml`, which says all else.

The int8 form (`ppose.export.int8graph`) is that of PaddleSlim's ONNX-like export. TensorRT runs
Paddle's files on a GPU: `Config.enable_use_gpu(256, 0)`, then
`enable_tensorrt_engine(workspace_size=1 << 30, max_batch_size=8, min_subgraph_size=3,
precision_mode=PrecisionType.Int8, use_static=False, use_calib_mode=False)`: the ranges stand in the
model, so nothing is calibrated. With an open batch, `set_trt_dynamic_shape_info` wants the least,
largest and usual shape of `images`.
"""

from __future__ import annotations

import copy
import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import paddle

import ppose
from ppose.config import dump_config
from ppose.deploy.bundle import DESCRIPTION, FORM, ONNX, PROGRAM, WEIGHTS, Bundle, file_hash
from ppose.engine.logs import STARTS
from ppose.experiment import Config, Experiment
from ppose.export.fold import fold_norms
from ppose.export.graph import FromPixels, inputs_of
from ppose.export.int8graph import is_fake_quantized, to_int8
from ppose.export.optimize import optimized
from ppose.export.pdmodel import Program, trace
from ppose.files import whole_file
from ppose.registry import ConfigError, spelled_out

Format = Literal["paddle", "onnx"]
FORMATS: tuple[Format, ...] = ("paddle", "onnx")
_FILES: dict[Format, list[str]] = {"paddle": [PROGRAM, WEIGHTS], "onnx": [ONNX]}
_KEPT = ("crop", "normalize", "codec", "skeleton", "postprocess")


def export_bundle(
    experiment: Experiment,
    folder: str | Path,
    formats: Sequence[Format] = FORMATS,
    *,
    peaks: bool = False,
    batch: int | None = None,
    weights: str | Path | None = None,
    check: Callable[[Bundle], None] | None = None,
) -> Bundle:
    """Writes the network of an experiment, with its weights as they are now, as a bundle.

    Batch norms are folded, pixels are normalised in the network, and a quantized network becomes
    an int8 one. All is made beside the folder and moved there at the end: if anything fails, a
    bundle that was there before is as it was. Other files in the folder stay.

    Args:
        experiment: stays as it is.
        folder: of the bundle.
        formats: "paddle" for Paddle Inference, "onnx" for ONNX Runtime and OpenVINO.
        peaks: let the network find the peaks, so that few numbers leave the device.
        batch: inputs in a batch; None leaves it open.
        weights: where they came from, for `pose.yml`.
        check: looks at the bundle before it is moved, and raises what speaks against it.

    Raises:
        ConfigError: peaks, where flip test or several scales need whole maps.
        TraceError: an operator of the network cannot be written.
        OSError: the folder cannot be written.
    """
    if not formats:
        raise ValueError(f"formats: expected one or more of {', '.join(FORMATS)}")
    experiment.check_fit()
    if peaks and (experiment.flip_test or experiment.crop.views_each > 1):
        raise ConfigError(
            "peaks: flip_test and crop.scales average whole maps; leave the peaks to the decoder, "
            "or set flip_test=false and one scale"
        )
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as made:
        bundle = _made(experiment, Path(made), formats, peaks, batch, weights)
        if check:
            check(bundle)
        _move(bundle, folder)
    return Bundle(folder)


def _made(
    experiment: Experiment,
    folder: Path,
    formats: Sequence[Format],
    peaks: bool,
    batch: int | None,
    weights: str | Path | None,
) -> Bundle:
    codec = experiment.codec
    network = copy.deepcopy(experiment.model).eval()
    fold_norms(network, codec.size_wh if codec.uses_boxes else None)
    layer = FromPixels(network, experiment.normalize, codec if peaks else None).eval()
    inputs = inputs_of(codec, batch, peaks)
    program = trace(layer, inputs)
    int8 = to_int8(program) if is_fake_quantized(program) else 0
    files = _written(program, folder, formats)
    images, _ = next(iter(inputs.values()))
    about = {
        "name": type(experiment.model).__name__,
        "gives": "peaks" if peaks else "maps",
        "stride": codec.stride,
        "size_multiple": experiment.model.size_multiple,
        "channels": codec.channels,
        "input": list(images),
        "int8": int8,
        "files": files,
        "sha256": {name: file_hash(folder / name) for names in files.values() for name in names},
    }
    describe(experiment, folder, about, weights)
    return Bundle(folder)


def _written(program: Program, folder: Path, formats: Sequence[Format]) -> dict[str, list[str]]:
    """Writes the files of each format and gives their names."""
    if "paddle" in formats:
        with whole_file(folder / PROGRAM) as first, whole_file(folder / WEIGHTS) as second:
            optimized(program, dense=True).save(first, second)
    if "onnx" in formats:
        from ppose.export.onnx import write_onnx

        write_onnx(optimized(program, dense=False), folder / ONNX)
    return {form: _FILES[form] for form in formats}


def _move(bundle: Bundle, folder: Path) -> None:
    """Puts the files into the folder, `pose.yml` last; formats that it does not name go."""
    folder.mkdir(exist_ok=True)
    names = [path.name for path in bundle.files]
    for name in [*names, DESCRIPTION]:
        (bundle.folder / name).replace(folder / name)
    for name in (n for files in _FILES.values() for n in files if n not in names):
        (folder / name).unlink(missing_ok=True)


def describe(
    experiment: Experiment,
    folder: Path,
    network: dict[str, Any],
    weights: str | Path | None,
) -> None:
    """Writes `pose.yml`; `network` are the arguments of `ppose.deploy.bundle.Network`."""
    hints, config = get_type_hints(Config), experiment.config
    file = Path(weights) if weights and Path(weights).is_file() else None
    sha256 = file_hash(file) if file else None
    about = {
        "form": FORM,
        "name": experiment.name,
        "network": network,
        **{key: spelled_out(config[key], hints[key]) for key in _KEPT},
        "flip_test": experiment.flip_test,
        "weights": {"file": str(weights) if weights else None, "sha256": sha256},
        "training": {"run": _beside(file, STARTS), "config": config},
        "versions": {
            "ppose": ppose.__version__,
            "paddle": paddle.__version__,
            "python": platform.python_version(),
        },
        "measured": _scores_of(file, sha256),
    }
    with whole_file(folder / DESCRIPTION) as partial:
        partial.write_text(dump_config(about), encoding="utf-8")


def _beside(file: Path | None, name: str) -> Any:
    """What a JSON file beside the weights says, if there is one."""
    if file is None or not (file.parent / name).is_file():
        return None
    try:
        return json.loads((file.parent / name).read_text(encoding="utf-8"))
    except ValueError:
        return None


def _scores_of(file: Path | None, sha256: str | None) -> dict[str, Any] | None:
    """What `tools/eval.py --json` left as scores.json beside these very weights."""
    found = _beside(file, "scores.json")
    return found if isinstance(found, dict) and found.get("weights_sha256") == sha256 else None
