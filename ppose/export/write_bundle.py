"""Bundle export: a network file for each kind of backend, and `pose.yml` with everything else.

The int8 form (`ppose.export.int8_program`) is that of PaddleSlim's ONNX-like export. TensorRT runs
Paddle's files on a GPU: `Config.enable_use_gpu(256, 0)`, then
`enable_tensorrt_engine(workspace_size=1 << 30, max_batch_size=8, min_subgraph_size=3,
precision_mode=PrecisionType.Int8, use_static=False, use_calib_mode=False)`. The scales are part of
the model, so no calibration is needed. With a dynamic batch size, `set_trt_dynamic_shape_info`
needs the minimum, maximum and optimal shape of `images`.
"""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import paddle

from ppose.config import ConfigError, dump_config, with_defaults
from ppose.config.ranges import type_hints
from ppose.deploy.bundle import DESCRIPTION, FORM, ONNX, PROGRAM, WEIGHTS, Bundle, file_hash
from ppose.experiment import Config, Experiment
from ppose.export.fold import fold_batch_norms
from ppose.export.int8_program import is_fake_quantized, to_int8
from ppose.export.optimize import optimize
from ppose.export.pdmodel import Program, trace
from ppose.export.wrapper import ExportWrapper, input_specs
from ppose.structures.trained_for import KEY
from ppose.training.provenance import STARTS
from ppose.utils.files import atomic_write
from ppose.utils.folders import atomic_folder
from ppose.version import __version__

Format = Literal["paddle", "onnx"]
FORMATS: tuple[Format, ...] = ("paddle", "onnx")
_FILES: dict[Format, list[str]] = {"paddle": [PROGRAM, WEIGHTS], "onnx": [ONNX]}
_CONFIG_KEYS = ("crop", "normalize", "codec", "skeleton", "postprocess")


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
    """Exports the network of an experiment with its current weights as a bundle.

    Batch norms are folded, normalisation of the pixels becomes part of the network, and a
    quantized network is converted to int8. The bundle is built in a folder of its own, which takes
    the place of `folder` in one step at the end: if anything fails, or the process is killed, an
    existing bundle is unchanged. Other files in the folder are kept.

    Args:
        experiment: not modified.
        folder: folder of the bundle.
        formats: "paddle" for Paddle Inference, "onnx" for ONNX Runtime and OpenVINO.
        peaks: find peaks in the network, so that less data is copied from the device.
        batch: batch size; None for a dynamic one.
        weights: file that the weights were loaded from, recorded in `pose.yml`.
        check: called with the bundle before it is moved; raises an exception to reject it.

    Raises:
        ConfigError: `peaks` together with flip test or several scales, which need whole maps.
        TraceError: an operator of the network cannot be exported.
        OSError: the folder cannot be written.
    """
    if not formats:
        raise ValueError(f"formats: expected one or more of {', '.join(FORMATS)}")
    experiment.check_fit()
    if peaks and (experiment.flip_test or experiment.crop.views_per_region > 1):
        raise ConfigError(
            "peaks: flip_test and crop.scales average whole maps; export without peaks, or set "
            "flip_test=false and one scale"
        )
    folder = Path(folder)
    with atomic_folder(
        folder, {DESCRIPTION, *(n for names in _FILES.values() for n in names)}
    ) as made:
        bundle = _build(experiment, made, formats, peaks, batch, weights)
        if check:
            check(bundle)
    return Bundle(folder)


def _build(
    experiment: Experiment,
    folder: Path,
    formats: Sequence[Format],
    peaks: bool,
    batch: int | None,
    weights: str | Path | None,
) -> Bundle:
    codec = experiment.codec
    network = copy.deepcopy(experiment.model).eval()
    fold_batch_norms(network, codec.size_wh if codec.uses_boxes else None)
    layer = ExportWrapper(network, experiment.normalize, codec if peaks else None).eval()
    inputs = input_specs(codec, batch, peaks)
    program = trace(layer, inputs)
    int8 = to_int8(program) if is_fake_quantized(program) else 0
    files = _write_files(program, folder, formats)
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


def _write_files(program: Program, folder: Path, formats: Sequence[Format]) -> dict[str, list[str]]:
    """Writes the files of each format and returns their names."""
    if "paddle" in formats:
        with atomic_write(folder / PROGRAM) as first, atomic_write(folder / WEIGHTS) as second:
            optimize(program, dense=True).save(first, second)
    if "onnx" in formats:
        from ppose.export.onnx import write_onnx

        write_onnx(optimize(program, dense=False), folder / ONNX)
    return {form: _FILES[form] for form in formats}


def describe(
    experiment: Experiment,
    folder: Path,
    network: dict[str, Any],
    weights: str | Path | None,
) -> None:
    """Writes `pose.yml`; `network` has the arguments of `ppose.deploy.bundle.Network`."""
    hints, config = type_hints(Config), experiment.config
    file = Path(weights) if weights and Path(weights).is_file() else None
    sha256 = file_hash(file) if file else None
    trained = experiment.weights_trained_for
    about = {
        "form": FORM,
        "name": experiment.name,
        "network": network,
        **{key: with_defaults(config[key], hints[key]) for key in _CONFIG_KEYS},
        "flip_test": experiment.flip_test,
        "weights": {
            "file": str(weights) if weights else None,
            "sha256": sha256,
            KEY: trained.to_dict() if trained else None,
        },
        "training": {"run": _json_next_to(file, STARTS), "config": config},
        "versions": {
            "ppose": __version__,
            "paddle": paddle.__version__,
            "python": platform.python_version(),
        },
        "measured": _scores_of(file, sha256),
    }
    with atomic_write(folder / DESCRIPTION) as partial:
        partial.write_text(dump_config(about), encoding="utf-8")


def _json_next_to(file: Path | None, name: str) -> Any:
    """The content of a JSON file next to the weights; None if it does not exist or is invalid."""
    if file is None or not (file.parent / name).is_file():
        return None
    try:
        return json.loads((file.parent / name).read_text(encoding="utf-8"))
    except ValueError:
        return None


def _scores_of(file: Path | None, sha256: str | None) -> dict[str, Any] | None:
    """scores.json of `ppose eval --json` next to the weights, if it belongs to these weights."""
    found = _json_next_to(file, "scores.json")
    return found if isinstance(found, dict) and found.get("weights_sha256") == sha256 else None
