"""What the engine must agree with: the same loss on transformers' model, one sequence at a time, and torch's AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.engines.constants import CLIP_HIGH, CLIP_LOW

Sequence = dict[str, Any]


def load_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def _response(model: Any, sequence: Sequence, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the response's tokens."""
    ids = torch.tensor([sequence["ids"]])
    logits = model(ids).logits[0, sequence["prompt_length"] - 1 : -1] / temperature
    logprobs = torch.log_softmax(logits, -1)
    targets = ids[0, sequence["prompt_length"] :, None]
    return logprobs.gather(-1, targets)[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@torch.no_grad()
def response_logprobs(model: Any, batch: dict[str, Any]) -> list[list[float]]:
    return [_response(model, s, batch["temperature"])[0].tolist() for s in batch["sequences"]]


def train(
    folder: Path,
    batches: list[dict[str, Any]],
    *,
    kl_coef: float,
    weight_decay: float,
    eps: float,
    surrogate: str = "clip",
    ratio: str = "token",
    reduction: str = "token",
    dual_clip: float | None = None,
    entropy_coef: float = 0.0,
    model: Any = None,
) -> list[dict[str, float]]:
    """One AdamW step a batch; the loss is written out from the papers' formulas and shares no code with ours."""
    model, frozen = model or load_model(folder), load_model(folder)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=eps,
    )
    results = []
    for batch in batches:
        count = sum(len(s["ids"]) - s["prompt_length"] for s in batch["sequences"])
        total, kl_sum, entropy_sum, clipped = torch.zeros(()), 0.0, 0.0, 0
        for sequence in batch["sequences"]:
            logprobs, entropy = _response(model, sequence, batch["temperature"])
            with torch.no_grad():
                reference, _ = _response(frozen, sequence, batch["temperature"])
            change = logprobs - torch.tensor(sequence["old_logprobs"])
            r = change.mean().exp().expand(len(change)) if ratio == "sequence" else change.exp()
            advantage = sequence["advantage"]
            bounded = r.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
            if surrogate == "cispo":
                gain = advantage * bounded.detach() * logprobs
                clipped += int((r != bounded).sum())
            else:
                gain = torch.minimum(advantage * r, advantage * bounded)
                clipped += int(((advantage * r) > (advantage * bounded)).sum())
                if dual_clip is not None and advantage < 0:
                    gain = gain.clamp_min(dual_clip * advantage)
            kl = (reference - logprobs).exp() - (reference - logprobs) - 1
            each = -gain * torch.tensor(sequence["weights"]) + kl_coef * kl - entropy_coef * entropy
            total = total + (each.sum() / count if reduction == "token" else each.mean() / len(batch["sequences"]))
            kl_sum += float(kl.detach().sum())
            entropy_sum += float(entropy.detach().sum())
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = batch["learning_rate"]
        optimizer.step()
        results.append(
            {
                "loss": total.item(),
                "grad_norm": float(norm),
                "kl": kl_sum if kl_coef else 0.0,
                "entropy": entropy_sum,
                "clipped": float(clipped),
                "tokens": float(count),
                "stepped": 1.0,
            }
        )
    return results


def gradient(folder: Path, batch: dict[str, Any], *, kl_coef: float) -> dict[str, Tensor]:
    """The clipped gradient of the first step on `batch`, by parameter name."""
    model = load_model(folder)
    train(folder, [batch], kl_coef=kl_coef, weight_decay=0.0, eps=1e-8, model=model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def greedy(folder: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """transformers' own generate, prompt by prompt and without an end token."""
    model = load_model(folder).eval()
    model.generation_config.eos_token_id = None
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        found.append(out[0, len(prompt) :].tolist())
    return found
