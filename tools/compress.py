"""Distils, quantizes, exports and measures a network: one report of what each step gains."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

EXAMPLES = """\
  python tools/compress.py -c configs/compress/quickstart.yml
  python tools/compress.py -c configs/compress/lite_hrnet_30.yml -o threads=4 \\
      student.weights=PATH_OR_URL teacher.weights=PATH_OR_URL quantized.epochs=5

The config names three others: a teacher's, a student's, and the student's with `quantize`. Their
keys are set as teacher.KEY, student.KEY and quantized.KEY. Six networks are made: float teacher,
float student, distilled, PTQ (calibrated only), PACT (trained in int8), and distilled + PACT.
What was trained before is not trained again, and a run that was stopped goes on.

The folder (output_dir) gets report.md, report.json, report.png, and for each network its run and
its exported model."""


def main() -> None:
    args = parser(__doc__, EXAMPLES).parse_args()

    from ppose.slim.compress import compress

    compress(args.config, args.override)


if __name__ == "__main__":
    run(main)
