"""Rewrites of a program that give the same output, up to rounding, in less time.

Paddle Inference spends more time between operators than in the small ones of Lite-HRNet, and much
of it on changes of the memory's layout: what counts is to have few operators, without copies.
"""

from __future__ import annotations

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program
from ppose.export.shuffles import keep_channels_in_place

_ROUNDING = {"quantize_linear", "dequantize_linear"}
# k · f(x) = f(k · x) for k > 0.
_HOMOGENEOUS = {"relu", "leaky_relu"}
# Behind a convolution, what works on each channel alone.
_BEHIND = {"relu", "leaky_relu", "sigmoid"}


def optimized(program: Program, *, dense: bool) -> Program:
    """A program that runs faster; a quantized one as it is, as its numbers belong to its steps.

    Args:
        program: stays as it is.
        dense: compute more than asked for where this saves copies. Paddle Inference is faster so,
            ONNX Runtime is not.
    """
    made = program.copied()
    if any(op.kind in _ROUNDING or op.kind.startswith("fake_") for op in program.operators):
        return made
    keep_channels_in_place(made, dense=dense)
    fold_scales(made)
    split_convolutions(made)
    return made


def fold_scales(program: Program) -> int:
    """Takes positive factors into the convolutions before them.

    Returns:
        factors that are gone.
    """
    makers, readers = program.makers(), program.readers()
    gone: dict[str, str] = {}
    for op in program.operators:
        if op.kind != "scale" or set(op.inputs) != {"X"} or op.made[0] in program.results:
            continue
        factor = np.float32(op.settings["scale"].f)
        if op.settings["bias"].f != 0 or factor <= 0:
            continue
        (source,) = op.inputs["X"]
        steps = _back_to_convolution(program, makers, readers, source, _HOMOGENEOUS)
        for step in steps:
            place = {"elementwise_add": "Y"}.get(step.kind, "Filter")
            if place in step.inputs:
                (name,) = step.inputs[place]
                scaled = f"{step.made[0]}.scaled"
                program.tensors[scaled] = program.tensors[name] * factor
                step.inputs[place] = [scaled]
        if steps:
            gone[op.made[0]] = source
    program.operators = [op for op in program.operators if op.made[0] not in gone]
    for op in program.operators:
        op.inputs = {k: [gone.get(name, name) for name in v] for k, v in op.inputs.items()}
    program.drop_unread()
    return len(gone)


def split_convolutions(program: Program) -> int:
    """Makes a convolution for each part where its output is only split.

    Returns:
        splits that are gone.
    """
    makers, readers = program.makers(), program.readers()
    instead: dict[int, list[Operator]] = {}
    for op in program.operators:
        if op.kind == "split" and op.integer("axis") == 1:
            steps = _back_to_convolution(program, makers, readers, op.inputs["X"][0], _BEHIND)
            if steps and steps[0].kind == "conv2d" and steps[0].integer("groups") == 1:
                instead |= {id(step): [] for step in steps}
                instead[id(op)] = _parts(program, steps, op.made)
    operators = [instead.get(id(op), [op]) for op in program.operators]
    program.operators = [op for several in operators for op in several]
    program.drop_unread()
    return sum(bool(made) for made in instead.values())


def _parts(program: Program, steps: list[Operator], results: list[str]) -> list[Operator]:
    """The operators, from a convolution on, for some of its channels each."""
    widths = [program.shapes[name][1] for name in results]
    ends = np.cumsum(widths)
    made = []
    for result, width, end in zip(results, widths, ends, strict=True):
        source = steps[0].inputs["Input"][0]
        for step in steps:
            last = step is steps[-1]
            name = result if last else f"{result}.{step.kind}"
            batch, _, *sides = program.shapes[step.made[0]]
            program.shapes[name] = (batch, width, *sides)
            inputs = {}
            for place, (read,) in step.inputs.items():
                if read in program.tensors:
                    inputs[place] = [f"{name}.{place}"]
                    program.tensors[f"{name}.{place}"] = program.tensors[read][end - width : end]
                else:
                    inputs[place] = [source]
            (place,) = step.outputs
            made.append(Operator(step.kind, inputs, {place: [name]}, dict(step.settings)))
            source = name
    return made


def _back_to_convolution(
    program: Program,
    makers: dict[str, Operator],
    readers: dict[str, list[Operator]],
    value: str,
    between: set[str],
) -> list[Operator]:
    """Operators from a convolution to a value, which all are read once; [] if there are none.

    Args:
        between: kinds that may lie there, beside the addition of a bias.
    """
    steps: list[Operator] = []
    while True:
        op = makers.get(value)
        if op is None or len(readers[value]) != 1 or value in program.results:
            return []
        steps.append(op)
        if op.kind in CONVOLUTIONS:
            weights = op.inputs["Filter"][0]
            return steps[::-1] if weights in program.tensors else []
        is_bias = op.kind == "elementwise_add" and op.inputs["Y"][0] in program.tensors
        if not (is_bias and op.integer("axis") == 1) and op.kind not in between:
            return []
        (value,) = op.inputs["X"]
