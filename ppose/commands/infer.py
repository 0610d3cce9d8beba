"""Finds poses in images: writes the images with the poses drawn on them, and one JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppose.commands import arguments
from ppose.utils.errors import PposeError

if TYPE_CHECKING:
    from ppose.experiment import Experiment
    from ppose.inference.estimator import PoseEstimator
    from ppose.inference.pose_model import PoseModel

EXAMPLES = """\
  ppose infer -c quickstart --infer_img=photo.jpg
  ppose infer -c quickstart --infer_img=dataset/test_image/people.jpg \\
      --bbox_file=dataset/test_image/boxes.json
  ppose infer -c imhn_quickstart --infer_img=dataset/test_image
  ppose infer -c hrnet_w32_256x192 --infer_img='photos/*.jpg' -o weights=PATH_OR_URL
  ppose infer -c quickstart --infer_img=photo.jpg --box 10 20 100 250 --box 130 15 90 240
  ppose infer -c tinypose_256x192 -o weights=tinypose.pdparams --infer_img=photos \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian
  ppose infer --model_dir=output/inference/tinypose_256x192 --infer_img=photos \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian

-c runs the network of a config with Paddle; --model_dir runs what `ppose export` wrote, with
nothing that trains. Bottom-up networks (imhn_*) find people by themselves. Top-down ones need
boxes or a detector: without either an image is taken as one person who fills it.
A box file is a JSON list of
{"file_name": "photo.jpg", "bbox": [x, y, width, height], "score": 0.9}; COCO's results format,
with "image_id" for a file named by its id, COCO annotations and poses.json work too.
The JSON holds for each image and person: box, score, and x, y, score of every joint."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose infer`."""
    parser.add_argument("--infer_img", required=True, help="an image, a folder or a pattern")
    network = parser.add_argument_group("network")
    arguments.add_config(network, required=False)
    network.add_argument("--model_dir", help="folder of an exported network, instead of -c")
    people = parser.add_argument_group("people")
    arguments.add_boxes(people)
    arguments.add_detector(people)
    exported = parser.add_argument_group("exported networks")
    arguments.add_machine(exported)
    exported.add_argument(
        "--batch_size", type=int, help="inputs per run of the network; default: 8"
    )
    result = parser.add_argument_group("result")
    result.add_argument(
        "--output_dir",
        help="default: infer in the config's output_dir, or output/deploy/ and the bundle's name",
    )
    arguments.add_draw_threshold(result)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Finds, draws and writes."""
    arguments.refuse_empty(parser, args, "config", "model_dir", "infer_img", "output_dir")
    if (args.config is None) == (args.model_dir is None):
        parser.error("give -c CONFIG or --model_dir FOLDER")
    if args.model_dir is not None:
        if args.override:
            parser.error("-o goes with -c")
        infer_with_bundle(args, parser, args.infer_img)
        return
    arguments.check_without_bundle(parser, args)
    boxes = _boxes_or_detector(parser, args)
    add_detector = arguments.detector_of(parser, args)

    from ppose.api import ShippedBundle, needs_shipped_bundle

    if needs_shipped_bundle():
        bundle = ShippedBundle.of(args.config, args.override)
        folder = args.output_dir or Path("output", bundle.name, "infer")
        _infer(lambda: add_detector(bundle.load()), args, boxes, args.infer_img, folder)
        return

    from ppose.experiment import Experiment

    experiment = Experiment.from_file(args.config, args.override)
    infer_with_experiment(
        experiment,
        args.infer_img,
        args.output_dir,
        add_detector,
        min_joint_score=args.draw_threshold,
        **boxes,
    )


def infer_with_experiment(
    experiment: Experiment,
    pictures: str,
    output_dir: str | None = None,
    add_detector: Callable[[PoseEstimator], PoseModel] = lambda estimator: estimator,
    **options: Any,
) -> None:
    """`ppose.inference.image_files.infer` with the network and weights of an experiment.

    Args:
        experiment: network and weights.
        pictures: see `ppose.inference.image_files.infer`.
        output_dir: None for `infer` in the run's folder.
        add_detector: puts a detector before the estimator, if there is one.
        options: further arguments of `ppose.inference.image_files.infer`.
    """
    from ppose.inference.image_files import infer

    if (options.get("boxes") or options.get("bbox_file")) and not experiment.crop.uses_boxes:
        raise PposeError(
            f"{experiment.name} is bottom-up: it finds people in the whole image; omit the boxes"
        )
    folder = output_dir or Path(experiment.output_dir) / "infer"
    infer(lambda: add_detector(experiment.loaded_estimator()), pictures, folder, **options)


def infer_with_bundle(
    args: argparse.Namespace, parser: argparse.ArgumentParser, pictures: str
) -> None:
    """`ppose.inference.image_files.infer` with an exported network, as the options say."""
    load = arguments.pipeline_of(args, parser)
    boxes = _boxes_or_detector(parser, args)
    _infer(load, args, boxes, pictures, args.output_dir or arguments.deploy_folder(args.model_dir))


def _boxes_or_detector(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    boxes = arguments.boxes_of(parser, args)
    if (args.box or args.bbox_file) and args.det_model_dir:
        parser.error("give boxes or a detector, not both")
    return boxes


def _infer(
    load: Callable[[], PoseModel],
    args: argparse.Namespace,
    boxes: dict[str, Any],
    pictures: str,
    folder: str | Path,
) -> None:
    from ppose.inference.image_files import infer

    infer(load, pictures, folder, min_joint_score=args.draw_threshold, **boxes)
