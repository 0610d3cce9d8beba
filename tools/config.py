"""Prints a config as it is after _base_, -o and ${references}; exits with 1 if it is wrong."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

EXAMPLES = """\
  python tools/config.py -c configs/hrnet_w32_256x192.yml
  python tools/config.py -c configs/hrnet_w32_256x192.yml -o model.backbone.width=48"""


def main() -> None:
    args = parser(__doc__, EXAMPLES).parse_args()

    from ppose.config import dump_config
    from ppose.experiment import Experiment

    print(dump_config(Experiment.from_file(args.config, args.override).config), end="")


if __name__ == "__main__":
    run(main)
