"""Drawing tokens from logits: random numbers that do not depend on the layout, temperature, top-k and nucleus.

Apart from the sampler since it needs no megatron-core. Left out: penalties for repetition and the like, which the
trainer's log-probabilities would know nothing of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniform_draws(seed: int, numbers: Sequence[int], copies: int, count: int) -> np.ndarray:
    """Uniform draws in [0, 1) for every copy of every prompt, [prompts * copies, count].

    Each row comes from a Philox generator keyed by (seed, prompt number, copy), whoever computes it.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), number * 2**20 + copy])).random(count)
        for number in numbers
        for copy in range(copies)
    ]
    return np.stack(rows)


def choose(
    logits: Tensor, temperature: float, draws: Tensor, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, and its log-probability.

    Top-k comes first, then the nucleus of what it left (Holtzman et al. 2020, arXiv:1904.09751, section 3.1): the
    fewest likeliest tokens that hold at least `top_p`. Of tokens as likely as the last one kept, only some may stay.

    Args:
        logits: [rows, vocabulary], float32.
        temperature: 0 takes the likeliest token; its log-probability is then that at temperature 1.
        draws: [rows], uniform in [0, 1].
        top_k: 0 for the whole vocabulary.
        top_p: 1 for all that `top_k` left.

    Returns:
        token ids [rows], and log-probabilities [rows] in nats of the distribution at the temperature, unfiltered.
    """
    scaled = logits if temperature in (0, 1) else logits / temperature
    peaks, likeliest = scaled.max(-1, keepdim=True)
    weights = (scaled - peaks).exp_()
    normalizers = peaks + weights.sum(-1, keepdim=True).log()
    if not temperature:
        ids = likeliest
    elif top_k or top_p < 1:
        kept, order = scaled.topk(min(top_k, scaled.shape[-1])) if top_k else scaled.sort(descending=True)
        weights = (kept - peaks).exp_()
        cumulative = weights.cumsum(-1)
        # A token stays while those before it hold less; at least the likeliest, whatever was rounded.
        counts = (cumulative - weights < top_p * cumulative[:, -1:]).sum(-1, keepdim=True).clamp_min_(1)
        ids = order.gather(-1, _invert(cumulative, counts, draws))
    else:
        ids = _invert(weights.cumsum(-1), torch.full_like(likeliest, scaled.shape[-1]), draws)
    return ids[:, 0], (scaled.gather(-1, ids) - normalizers)[:, 0]


def _invert(cumulative: Tensor, counts: Tensor, draws: Tensor) -> Tensor:
    """Places [rows, 1] where draws [rows] fall among the first `counts` [rows, 1] of cumulative weights [rows, any]."""
    totals = cumulative.gather(-1, counts - 1)
    # Strictly below the total, since draws may be rounded to 1; so no token of weight 0 is ever drawn.
    aims = torch.minimum(draws[:, None] * totals, totals.nextafter(torch.zeros_like(totals)))
    return torch.minimum(torch.searchsorted(cumulative, aims, right=True), counts - 1)
