"""Converts PyTorch weights for ppose: SimplePose's IMHN, HRNet, Lite-HRNet."""

from __future__ import annotations

import argparse

EXAMPLES = """\
  ppose convert pose_hrnet_w32_256x192.pth hrnet_w32.pdparams
  ppose convert litehrnet_30_coco_256x192.pth lite.pdparams --verify
  ppose convert --source simplepose IN.pth imhn.safetensors --verbose > tensors.txt

sources, told from the names of the tensors unless given:
  simplepose  SimplePose's IMHN with any number of stacks
  hrnet       the original HRNet of any width
  mmpose      MMPose's HRNet of any width, Lite-HRNet 18 and 30, the naive Lite-HRNets

A PyTorch file is read without PyTorch, and nothing in it is run; --verify needs PyTorch:
pip install torch. If a tensor is missing, unexpected or of another shape, nothing is written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ppose convert`."""
    add = parser.add_argument
    add("checkpoint", metavar="IN", help="path or address of a PyTorch checkpoint or .safetensors")
    add("output", metavar="OUT", help="a .pdparams or .safetensors file to write")
    add("--source", choices=["simplepose", "hrnet", "mmpose"], help="whose network it is")
    add("--key", help="part of IN to take; default: state_dict, weights, model_state_dict or model")
    add(
        "--verify",
        action="store_true",
        help="run both networks on the same input; write only if they agree",
    )
    add("--verbose", action="store_true", help="print a line for every tensor")
    add("-f", "--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Converts."""
    from ppose.convert.convert_file import convert_file

    convert_file(
        args.checkpoint,
        args.output,
        args.source,
        key=args.key,
        verify=args.verify,
        overwrite=args.force,
        verbose=args.verbose,
    )
