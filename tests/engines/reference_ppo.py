"""PPO on transformers' model, one response at a time, written out from the papers' sums; shares no code with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.engines import reference
from tests.engines.constants import PPO


class Critic(nn.Module):
    """The layers of a language model and one row of weights."""

    def __init__(self, folder: Path, head: list[float]) -> None:
        super().__init__()
        self.layers = reference.load_model(folder).model
        self.head = nn.Parameter(torch.tensor(head))

    def forward(self, sequence: dict[str, Any]) -> Tensor:
        """Values of the states before each response token, and behind the last."""
        states = self.layers(torch.tensor([sequence["ids"]])).last_hidden_state[0]
        return states[sequence["prompt_length"] - 1 :] @ self.head


def take_steps(
    folder: Path, batches: list[dict[str, Any]], head: list[float], name: str, *, weight_decay: float, eps: float
) -> tuple[list[dict[str, Any]], nn.Module, Critic]:
    """One step of the setting `PPO[name]` a batch; also both models with their last gradients."""
    chosen = PPO[name]
    policy, frozen, critic = reference.load_model(folder), reference.load_model(folder), Critic(folder, head)
    optimizers = [_adam(model, weight_decay, eps) for model in (policy, critic)]
    found = []
    for batch in batches:
        counted = [s for s in batch["sequences"] if s["reward"] is not None]
        temperature = batch["temperature"]
        with torch.no_grad():
            values = [critic(s) for s in counted]
            rewards = [_rewards(frozen, s, temperature, chosen) for s in counted]
        estimates = [_estimates(s, r, v, chosen) for s, r, v in zip(counted, rewards, values, strict=True)]
        advantages, targets = [a for a, _ in estimates], [t for _, t in estimates]
        if chosen["whiten"]:
            flat = torch.cat(advantages)
            mean, spread = flat.mean(), flat.var(correction=0).clamp_min(1e-8).sqrt()
            advantages = [(a - mean) / spread for a in advantages]
        tokens = sum(len(a) for a in advantages)
        step: dict[str, Any] = {
            "values": [v[:-1].tolist() for v in values],
            "targets": [t.tolist() for t in targets],
            "advantages": [a.tolist() for a in advantages],
            "critic": [],
        }
        for _ in range(chosen["epochs"]):
            loss = torch.zeros(())
            for s, target, old in zip(counted, targets, values, strict=True):
                value = critic(s)[:-1]
                error = (value - target) ** 2
                if chosen["value_clip"]:
                    near = old[:-1] + (value - old[:-1]).clamp(-chosen["value_clip"], chosen["value_clip"])
                    error = torch.maximum(error, (near - target) ** 2)
                loss = loss + error.sum() / (2 * tokens)
            step["critic"].append(_step(loss, critic, optimizers[1], batch["learning_rate"]))
        right = sum(len(a) for s, a in zip(counted, advantages, strict=True) if s["right"])
        loss = torch.zeros(())
        for s, advantage in zip(counted, advantages, strict=True):
            logprobs, _ = reference._response(policy, s, temperature)
            ratio = (logprobs - torch.tensor(s["old_logprobs"])).exp()
            bounded = ratio.clamp(1 - chosen["clip_low"], 1 + chosen["clip_high"])
            loss = loss - torch.minimum(ratio * advantage, bounded * advantage).sum() / tokens
            if s["right"]:
                loss = loss - chosen["positive_coef"] * logprobs.sum() / right
        step["policy"] = [_step(loss, policy, optimizers[0], batch["learning_rate"])]
        found.append(step)
    return found, policy, critic


def _adam(model: nn.Module, weight_decay: float, eps: float) -> torch.optim.Optimizer:
    # Megatron's head is a matrix of one row, and decays as one.
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 or name == "head"]
    vectors = [p for name, p in model.named_parameters() if p.dim() == 1 and name != "head"]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=eps)


def _rewards(frozen: Any, sequence: dict[str, Any], temperature: float, chosen: dict[str, Any]) -> Tensor:
    """What every token is paid: its divergence, and the last one the outcome, unless it was cut and goes on."""
    rewards = torch.zeros(len(sequence["old_logprobs"]), dtype=torch.float64)
    if chosen["kl_coef"]:
        with torch.no_grad():
            logprobs, _ = reference._response(frozen, sequence, temperature)
        rewards -= chosen["kl_coef"] * (torch.tensor(sequence["old_logprobs"]) - logprobs)
    if sequence["finished"] or chosen["cut"] == "terminal":
        rewards[-1] += sequence["reward"]
    return rewards


def _estimates(
    sequence: dict[str, Any], rewards: Tensor, values: Tensor, chosen: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Advantages as sums of temporal differences (GAE), and targets, which are values plus theirs at another lambda."""
    v = values.double().clone()
    if sequence["finished"] or chosen["cut"] == "terminal":
        v[-1] = 0
    gamma, count = chosen["gamma"], len(rewards)
    deltas = [rewards[t] + gamma * v[t + 1] - v[t] for t in range(count)]

    def summed(lam: float) -> Tensor:
        return torch.stack(
            [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, count)) + torch.zeros(()) for t in range(count)]
        )

    lam = chosen["policy_lambda"]
    if chosen["length_alpha"]:
        lam = max(lam, 1 - 1 / (chosen["length_alpha"] * count))
    return summed(lam).float(), (summed(chosen["critic_lambda"]) + v[:-1]).float()


def _step(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return {"loss": loss.item(), "grad_norm": float(norm)}
