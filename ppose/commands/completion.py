"""Prints a script that completes ppose's commands and options with the tab key."""

from __future__ import annotations

import argparse

EXAMPLES = """\
  ppose completion bash > ~/.local/share/bash-completion/completions/ppose
  ppose completion zsh > ~/.zfunc/_ppose      (with fpath+=~/.zfunc before compinit)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the argument of `ppose completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints the script."""
    import shtab

    from ppose.commands import program

    print(shtab.complete(program(), shell=args.shell))
