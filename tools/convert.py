"""Converts weights of PyTorch for ppose: SimplePose's IMHN, HRNet, Lite-HRNet."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import run

EXAMPLES = """\
examples:
  python tools/convert.py pose_hrnet_w32_256x192.pth hrnet_w32.pdparams
  python tools/convert.py litehrnet_30_coco_256x192.pth lite.pdparams --verify
  python tools/convert.py --source simplepose IN.pth imhn.safetensors --verbose > tensors.txt

sources, told from the names of the tensors unless given:
  simplepose  SimplePose's IMHN with any number of stacks
  hrnet       the original HRNet of any width
  mmpose      MMPose's HRNet of any width, Lite-HRNet 18 and 30, the naive Lite-HRNets

A PyTorch file needs PyTorch (pip install -r requirements-convert.txt) and is read by its safe
loader, which runs no code; a .safetensors file does not need it. If a tensor is missing, unexpected
or of another shape, nothing is written."""


def main() -> None:
    arguments = ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
    )
    add = arguments.add_argument
    add("checkpoint", metavar="IN", help="path or address of a PyTorch checkpoint or .safetensors")
    add("output", metavar="OUT", help="a .pdparams or .safetensors file to write")
    add("--source", choices=["simplepose", "hrnet", "mmpose"], help="whose network it is")
    add("--key", help="part of IN to take; default state_dict, weights, model_state_dict or model")
    add(
        "--verify",
        action="store_true",
        help="run both networks on the same input; write only if they agree",
    )
    add("--verbose", action="store_true", help="print a line for every tensor")
    add("-f", "--force", action="store_true", help="overwrite OUT")
    args = arguments.parse_args()

    from ppose.convert.file import convert_file

    convert_file(
        args.checkpoint,
        args.output,
        args.source,
        key=args.key,
        verify=args.verify,
        overwrite=args.force,
        verbose=args.verbose,
    )


if __name__ == "__main__":
    run(main)
