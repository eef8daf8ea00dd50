"""Matrix products of half precision inputs with float32 results, which are not rounded on the way out."""

from __future__ import annotations

import torch
from torch import Tensor

_HAS_OUTPUT_TYPE = "dtype" in torch.ops.aten.bmm.overloads()


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """a [.., m, k] @ b [.., k, n] in float32, summed in float32; any number of leading dimensions, the same for both.

    torch has products of another output type on a GPU alone, from 2.8 on; elsewhere the inputs are converted first.
    """
    if not a.is_cuda or a.dtype == torch.float32 or not _HAS_OUTPUT_TYPE:
        return a.float() @ b.float()
    if a.dim() == 2:
        return torch.mm(a, b, out_dtype=torch.float32)
    product = torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
    return product.view(*a.shape[:-1], b.shape[-1])
