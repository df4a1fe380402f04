"""In what numbers the products of training are taken. Weights, moments and sums stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products_in(precision: str, device: str) -> Iterator[None]:
    """Matrix products and convolutions within the block in float32, tf32 (on a GPU) or bfloat16.

    On a GPU float32 is what it says: PyTorch by itself would take tf32 for convolutions.
    """
    kind = torch.device(device).type
    # Weights once cast are kept until the block ends, so it must not hold more than one step.
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
