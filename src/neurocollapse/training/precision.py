"""The precision of matrix products in training. Weights, moments and sums keep their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products_in(precision: str, device: str) -> Iterator[None]:
    """Computes matrix products and convolutions within the block in float32, tf32 (on a GPU) or bfloat16.

    float32 means float32 on a GPU too, where PyTorch's default for convolutions is tf32.
    """
    kind = torch.device(device).type
    # Autocast keeps cast weights until the block ends, so the block must not contain more than one step.
    cast = torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    with _rounded(kind, "high" if precision == "tf32" else "highest"), cast:
        yield


@contextmanager
def _rounded(kind: str, float32: str) -> Iterator[None]:
    if kind != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(float32)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=float32 == "high"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
