"""A network's graph in the form that VisualDL draws.

VisualDL 2.5 reads programs of Paddle's old form only, which Paddle 3 can no longer trace for every
operator: the network is traced in the new form, and its operators are written down in the old.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.base import core

from ppose.models.network import Network

_CONSTANTS = ("full", "full_int_array")
# Several values as one, and taken apart again: nothing that computes.
_BUNDLING = ("builtin.combine", "builtin.split")


def network_graph(network: Network, size_wh: tuple[int, int]) -> dict[str, Any]:
    """Operators, what flows between them, and the layers that they belong to, ready for JSON.

    Args:
        network: is traced as it runs in eval mode; stays as it is.
        size_wh: width and height of an input.
    """
    from visualdl.component.graph import analyse_model

    was_training = network.training
    network.eval()
    try:
        with _layers_noted(network) as layers:
            width, height = size_wh
            traced = paddle.jit.to_static(
                network.forward,
                input_spec=[paddle.static.InputSpec([1, 3, height, width], "float32", "image")],
                full_graph=True,
            )
            block = traced.concrete_program.main_program.global_block()
    finally:
        if was_training:
            network.train()
    own_names = {tensor.name: name for name, tensor in network.state_dict().items()}
    scopes = _scopes(type(network).__name__, len(block.ops), layers)
    return analyse_model(_in_old_form(block, scopes, own_names))


@contextmanager
def _layers_noted(network: Network) -> Iterator[list[tuple[int, int, str]]]:
    """Gives a list that gets the (first, behind last) operator of each layer, inner ones first."""
    spans: list[tuple[int, int, str]] = []
    starts: list[int] = []

    def count() -> int:
        return len(paddle.static.default_main_program().global_block().ops)

    def enter(layer: paddle.nn.Layer, inputs: Any) -> None:
        starts.append(count())

    def leaver(name: str):
        def leave(layer: paddle.nn.Layer, inputs: Any, outputs: Any) -> None:
            spans.append((starts.pop(), count(), name))

        return leave

    hooks = []
    for name, layer in network.named_sublayers():
        hooks.append(layer.register_forward_pre_hook(enter))  # type: ignore[arg-type]
        hooks.append(layer.register_forward_post_hook(leaver(name)))
    try:
        yield spans
    finally:
        for hook in hooks:
            hook.remove()


def _scopes(root: str, count: int, spans: list[tuple[int, int, str]]) -> list[str]:
    """The path of layers to each operator, such as /PoseNet/backbone/stem1/."""
    paths = [f"/{root}/"] * count
    outer = [""] * count
    for start, end, name in reversed(spans):
        for i in range(start, end):
            paths[i] += name.removeprefix(outer[i]) + "/"
            outer[i] = name + "."
    return paths


def _in_old_form(block: Any, scopes: list[str], parameters: dict[str, str]) -> bytes:
    """The operators of a block as a program of the old form.

    Args:
        block: of a traced program.
        scopes: the layers around each operator, joined by slashes.
        parameters: Paddle's name of each → its name in the network.
    """
    program = core.ProgramDesc()
    old = program.block(0)
    names: dict[int, list[str]] = {}  # of what each value of the new form holds
    for operator, scope in zip(block.ops, scopes, strict=True):
        kind = operator.name().partition(".")[2]
        inputs = [names[v.id] for v in operator.operands_source() if v.initialized()]
        if kind in _CONSTANTS:
            names |= {v.id: [] for v in operator.results()}
        elif operator.name() in _BUNDLING:
            names |= {v.id: [n for held in inputs for n in held] for v in operator.results()}
        elif kind == "parameter":
            value, own = operator.results()[0], operator.attrs()["parameter_name"]
            names[value.id] = [_variable(old, parameters.get(own, own), value, is_kept=True)]
        else:
            place = len(names)
            for i, value in enumerate(operator.results()):
                names[value.id] = [_variable(old, f"{kind}_{place}.{i}", value)]
            made = old.append_op()
            made.set_type(kind)
            made.set_input("X", [name for held in inputs for name in held])
            made.set_output("Out", [names[v.id][0] for v in operator.results()])
            for key, setting in _settings(operator).items():
                made._set_attr(key, setting)
            made._set_attr("op_namescope", scope)
    return program.serialize_to_string()


def _variable(block: Any, name: str, value: Any, is_kept: bool = False) -> str:
    variable = block.var(name.encode())
    variable.set_type(core.VarDesc.VarType.DENSE_TENSOR)
    if value.is_dense_tensor_type():
        variable.set_shape(list(value.shape))
    variable.set_dtype(core.VarDesc.VarType.FP32)
    variable.set_persistable(is_kept)
    return name


def _settings(operator: Any) -> dict[str, Any]:
    """Strides, paddings and the like."""
    return {
        key: setting
        for key, setting in operator.attrs().items()
        if isinstance(setting, int | float | str)
        or (isinstance(setting, list) and setting and all(type(x) is int for x in setting))
    }
