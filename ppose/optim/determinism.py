"""Deterministic training: the same bits on every run on the same machine, at some cost in speed."""

from __future__ import annotations

import os

import paddle


def make_deterministic() -> None:
    """Makes all operators add in a fixed order; call it before anything is computed.

    On a CPU, MKL takes one code path regardless of memory alignment and number of threads. On a
    GPU, cuDNN and Paddle use no kernels that add in a varying order.
    """
    # MKL reads it at the first matrix product.
    os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
    if paddle.is_compiled_with_cuda():
        paddle.set_flags({"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1})
