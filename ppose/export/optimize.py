"""Graph optimizations, which keep the output up to rounding and make the program faster.

On the small operators of Lite-HRNet, Paddle Inference spends most of its time on per-operator
overhead and memory layout conversions. The passes therefore remove operators and copies.
"""

from __future__ import annotations

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program
from ppose.export.shuffles import remove_shuffle_copies

_QUANTIZATION = {"quantize_linear", "dequantize_linear"}
# k · f(x) = f(k · x) for k > 0.
_HOMOGENEOUS = {"relu", "leaky_relu"}
# Channelwise operators that may follow a convolution.
_CHANNELWISE = {"relu", "leaky_relu", "sigmoid"}


def optimize(program: Program, *, dense: bool) -> Program:
    """Returns a faster program; quantized programs are only copied, as scales belong to operators.

    Args:
        program: not modified.
        dense: accept additional computation where it saves copies. This makes Paddle Inference
            faster, but not ONNX Runtime.
    """
    made = program.copy()
    if any(op.type in _QUANTIZATION or op.type.startswith("fake_") for op in program.operators):
        return made
    remove_shuffle_copies(made, dense=dense)
    fold_scales(made)
    split_convolutions(made)
    return made


def fold_scales(program: Program) -> int:
    """Folds multiplications by a positive constant into the convolutions before them.

    Returns:
        the number of removed multiplications.
    """
    producers, consumers = program.producers(), program.consumers()
    replaced: dict[str, str] = {}
    for op in program.operators:
        if op.type != "scale" or set(op.inputs) != {"X"} or op.output_names[0] in program.outputs:
            continue
        factor = np.float32(op.attributes["scale"].f)
        if op.attributes["bias"].f != 0 or factor <= 0:
            continue
        (source,) = op.inputs["X"]
        steps = _chain_from_convolution(program, producers, consumers, source, _HOMOGENEOUS)
        for step in steps:
            place = {"elementwise_add": "Y"}.get(step.type, "Filter")
            if place in step.inputs:
                (name,) = step.inputs[place]
                scaled = f"{step.output_names[0]}.scaled"
                program.tensors[scaled] = program.tensors[name] * factor
                step.inputs[place] = [scaled]
        if steps:
            replaced[op.output_names[0]] = source
    program.operators = [op for op in program.operators if op.output_names[0] not in replaced]
    for op in program.operators:
        op.inputs = {k: [replaced.get(name, name) for name in v] for k, v in op.inputs.items()}
    program.drop_unused_tensors()
    return len(replaced)


def split_convolutions(program: Program) -> int:
    """Splits a convolution whose output is only split along the channels.

    Returns:
        the number of removed splits.
    """
    producers, consumers = program.producers(), program.consumers()
    replacements: dict[int, list[Operator]] = {}
    for op in program.operators:
        if op.type == "split" and op.integer("axis") == 1:
            steps = _chain_from_convolution(
                program, producers, consumers, op.inputs["X"][0], _CHANNELWISE
            )
            if steps and steps[0].type == "conv2d" and steps[0].integer("groups") == 1:
                replacements |= {id(step): [] for step in steps}
                replacements[id(op)] = _split_chain(program, steps, op.output_names)
    operators = [replacements.get(id(op), [op]) for op in program.operators]
    program.operators = [op for several in operators for op in several]
    program.drop_unused_tensors()
    return sum(bool(made) for made in replacements.values())


def _split_chain(program: Program, steps: list[Operator], results: list[str]) -> list[Operator]:
    """Copies of a convolution and the operators after it, one for each part of its channels."""
    widths = [program.shapes[name][1] for name in results]
    ends = np.cumsum(widths)
    made = []
    for result, width, end in zip(results, widths, ends, strict=True):
        source = steps[0].inputs["Input"][0]
        for step in steps:
            last = step is steps[-1]
            name = result if last else f"{result}.{step.type}"
            batch, _, *sides = program.shapes[step.output_names[0]]
            program.shapes[name] = (batch, width, *sides)
            inputs = {}
            for place, (read,) in step.inputs.items():
                if read in program.tensors:
                    inputs[place] = [f"{name}.{place}"]
                    program.tensors[f"{name}.{place}"] = program.tensors[read][end - width : end]
                else:
                    inputs[place] = [source]
            (place,) = step.outputs
            made.append(Operator(step.type, inputs, {place: [name]}, dict(step.attributes)))
            source = name
    return made


def _chain_from_convolution(
    program: Program,
    producers: dict[str, Operator],
    consumers: dict[str, list[Operator]],
    value: str,
    between: set[str],
) -> list[Operator]:
    """The operators from a convolution to a value, if each output is read once; else [].

    Args:
        between: operator types allowed after the convolution, in addition to its bias.
    """
    steps: list[Operator] = []
    while True:
        op = producers.get(value)
        if op is None or len(consumers[value]) != 1 or value in program.outputs:
            return []
        steps.append(op)
        if op.type in CONVOLUTIONS:
            weights = op.inputs["Filter"][0]
            return steps[::-1] if weights in program.tensors else []
        is_bias = op.type == "elementwise_add" and op.inputs["Y"][0] in program.tensors
        if not (is_bias and op.integer("axis") == 1) and op.type not in between:
            return []
        (value,) = op.inputs["X"]
