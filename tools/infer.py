"""Finds poses in pictures: writes the pictures with the poses drawn on them, and one JSON."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import add_boxes, add_draw_threshold, boxes_of, parser, run

EXAMPLES = """\
  python tools/infer.py -c configs/quickstart.yml --infer_img=dataset/test_image/people.jpg \\
      --bbox_file=dataset/test_image/boxes.json
  python tools/infer.py -c configs/imhn_quickstart.yml --infer_img=dataset/test_image
  python tools/infer.py -c configs/hrnet_w32_256x192.yml --infer_img='photos/*.jpg' \\
      -o weights=PATH_OR_URL
  python tools/infer.py -c configs/quickstart.yml --infer_img=photo.jpg --box 10 20 100 250 \\
      --box 130 15 90 240

Bottom-up configs (imhn_*) find people by themselves. Top-down ones need their boxes: without any
a picture is taken as one person who fills it. A box file is a JSON list of
{"file_name": "photo.jpg", "bbox": [x, y, width, height], "score": 0.9}; COCO's results format,
with "image_id" for a file named by its id, works too.
The JSON holds for each picture and person: box, score, and x, y, score of every joint."""


def main() -> None:
    arguments = parser(__doc__, EXAMPLES)
    arguments.add_argument("--infer_img", required=True, help="a picture, a folder or a pattern")
    arguments.add_argument("--output_dir", default=None, help="default: OUTPUT_DIR/infer")
    add_boxes(arguments)
    add_draw_threshold(arguments)
    args = arguments.parse_args()
    boxes = boxes_of(arguments, args)

    from ppose.engine.infer import infer_with
    from ppose.experiment import Experiment

    infer_with(
        Experiment.from_file(args.config, args.override),
        pictures=args.infer_img,
        output_dir=args.output_dir,
        min_joint_score=args.draw_threshold,
        **boxes,
    )


if __name__ == "__main__":
    run(main)
