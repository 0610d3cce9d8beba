"""Tensor names in weight files and training states."""

from __future__ import annotations

from collections.abc import Iterable

# Prefixes of the kinds of tensors in a training state.
MODEL, OPTIMIZER, AVERAGE, EMA, ADAPTER = "model.", "optimizer.", "average.", "ema.", "adapter."

# The quantizers of a layer, as PaddleSlim names them.
WEIGHT_QUANTIZER, INPUT_QUANTIZER, CLIPPING = (
    *("_fake_quant_weight", "_fake_quant_input"),
    "_act_preprocess",
)


def is_quantized(names: Iterable[str]) -> bool:
    """Whether these are tensor names of a quantized network."""
    return any(name.endswith(f"{WEIGHT_QUANTIZER}._scale") for name in names)


def float_names(names: Iterable[str]) -> list[str]:
    """The tensor names of a quantized network that also exist in the float network."""
    own = {WEIGHT_QUANTIZER, INPUT_QUANTIZER, CLIPPING}
    return [name for name in names if own.isdisjoint(name.split("."))]
