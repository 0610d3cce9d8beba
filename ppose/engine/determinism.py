"""The same bits on every run of the same machine, at the price of the fastest operators."""

from __future__ import annotations

import os

import paddle


def compute_reproducibly() -> None:
    """Lets each operator add its numbers in one order; call it before anything is computed.

    On a CPU, MKL keeps to one code path whatever the alignment of memory and the number of
    threads. On a GPU, cuDNN and Paddle's own kernels give up those that add in any order.
    """
    # Read by MKL at its first product.
    os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
    if paddle.is_compiled_with_cuda():
        paddle.set_flags({"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1})
