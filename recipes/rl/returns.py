"""PPO with a critic: from scores and values to advantages for the policy and targets for the critic.

Position t of every table is response token t; its value is that of the state before it, prompt and earlier tokens. One
table of rewards serves both results, so that the critic learns the very return that the policy is paid. Nothing is a
group's: a prompt may have one response. Left out: the value loss (`recipes.rl.losses.value_loss`), and importance
weights inside the returns (V-trace), since a rollout is at most a step older than the critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recipes.rl.advantages import whiten_tokens


@dataclass(frozen=True)
class Gae:
    """How advantages and targets are estimated.

    Attributes:
        gamma: discount a token; below 1 it pays for being brief.
        critic_lambda: of the critic's targets; 1 makes them Monte Carlo returns, which hold nothing of the critic's own
            (decoupled GAE, VC-PPO, Yuan et al. 2025, arXiv 2503.01491).
        policy_lambda: of the policy's advantages; with `length_alpha` the floor of each response's own one.
        length_alpha: alpha of `length_lambda`; VAPO has 0.05. None gives every response `policy_lambda`.
        kl_coef: weight of the divergence that is charged to tokens; 0 where it is in the policy's loss, and then
            neither advantages nor targets hold it.
        cut: what follows the last token of a response that the token limit cut (Pardo et al. 2018, arXiv 1712.00378,
            their two cases). terminal: nothing, the score of what is there is the outcome. The limit is then a rule of
            the task, as it is where answers are evaluated under the same limit. bootstrap: more text, worth what the
            critic says, and no score is paid. The limit is then the rollout's alone; but a policy that never ends is
            never punished for it, so it needs a reason other than the score to end.
        whiten: advantages to mean 0 and variance 1 over all tokens that count; targets never.
    """

    gamma: float = 1.0
    critic_lambda: float = 1.0
    policy_lambda: float = 0.95
    length_alpha: float | None = None
    kl_coef: float = 0.0
    cut: Literal["terminal", "bootstrap"] = "terminal"
    whiten: bool = True


@torch.no_grad()
def advantages_and_targets(
    gae: Gae,
    outcomes: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    kl: Tensor | None = None,
    truncated: Tensor | None = None,
    after: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The policy's advantages and the critic's targets of a whole batch; constants.

    Whitening takes its mean and variance from what is passed: tensors divided among ranks have to be gathered first.

    Args:
        gae: how.
        outcomes: [sequences], the score of each response.
        values: [sequences, positions], the critic's before the update, in float32 or wider.
        mask: [sequences, positions], 1 where the token counts, all 0 for a response without a score; nothing else of
            such tokens and responses is read.
        kl: [sequences, positions], k1 of the divergence from the reference (`recipes.rl.losses.kl_estimate`); needed
            with `kl_coef`.
        truncated: [sequences] bool, cut by the limit; needed with `cut=bootstrap`.
        after: [sequences], the critic's values of the states behind the last tokens; needed with `cut=bootstrap`, read
            for cut responses. The value of position t + 1 is that of the state behind token t, so a response with any
            token appended has it.

    Returns:
        advantages and targets, [sequences, positions] each; 0 where the token does not count.

    Raises:
        ValueError: something needed is missing.
    """
    following = torch.zeros_like(outcomes)
    if gae.cut == "bootstrap":
        if truncated is None or after is None:
            raise ValueError("cut=bootstrap: pass which responses are truncated, and the values after them")
        outcomes, following = torch.where(truncated, following, outcomes), torch.where(truncated, after, following)
    rewards = token_rewards(outcomes, mask, kl, gae.kl_coef)
    policy_lambda: Tensor | float = gae.policy_lambda
    if gae.length_alpha is not None:
        policy_lambda = length_lambda((mask > 0).sum(-1), gae.length_alpha, floor=gae.policy_lambda)
    targets = lambda_returns(rewards, values, mask, gae.critic_lambda, gamma=gae.gamma, after=following)
    returns = lambda_returns(rewards, values, mask, policy_lambda, gamma=gae.gamma, after=following)
    advantages = torch.where(mask > 0, returns - values, torch.zeros_like(returns))
    return whiten_tokens(advantages, mask) if gae.whiten else advantages, targets


@torch.no_grad()
def token_rewards(outcomes: Tensor, mask: Tensor, kl: Tensor | None = None, kl_coef: float = 0.0) -> Tensor:
    """r_t = -coef * kl_t, and the outcome beside it at the last token (Ziegler et al. 2019, arXiv 1909.08593, eq. 2).

    Every token pays its own divergence; returns then charge it to the earlier ones that led there.

    Args:
        outcomes: [sequences].
        mask: [sequences, positions], 1 where the token counts.
        kl: [sequences, positions], log policy - log reference of each token.
        kl_coef: its weight.

    Returns:
        [sequences, positions]; 0 where the token does not count.

    Raises:
        ValueError: there is a weight and no divergence.
    """
    if kl_coef and kl is None:
        raise ValueError(f"kl_coef={kl_coef} charges tokens a divergence: pass kl, or set it to 0")
    counted = mask > 0
    last = counted & (counted.flip(-1).cumsum(-1).flip(-1) == 1)
    zeros = torch.zeros_like(mask, dtype=outcomes.dtype)
    rewards = torch.where(last, outcomes[:, None], zeros)
    return rewards if kl is None else rewards - torch.where(counted, kl_coef * kl, zeros)


@torch.no_grad()
def lambda_returns(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    lam: Tensor | float,
    *,
    gamma: float = 1.0,
    after: Tensor | None = None,
) -> Tensor:
    """G_t = r_t + gamma * ((1 - lambda) * V_t+1 + lambda * G_t+1) (Sutton and Barto 2018, section 12.8).

    G_t - V_t is the generalised advantage estimate, sum over k of (gamma lambda)^k delta_t+k with delta_t = r_t + gamma
    V_t+1 - V_t (Schulman et al. 2016, arXiv 1506.02438, eq. 16). In this form lambda = 1 gives Monte Carlo returns to
    the bit, and lambda = 0 one-step targets.

    Args:
        rewards, values: [sequences, positions]; only those of tokens that count are read.
        mask: [sequences, positions], 1 where the token counts. Any others are passed over, also between two that do:
            t + 1 is the next one that counts.
        lam: in [0, 1]; [sequences], or one for all.
        gamma: discount a token.
        after: [sequences], the value of the state behind the last token; None for 0, where nothing follows.

    Returns:
        [sequences, positions]; 0 where the token does not count.
    """
    counted = mask > 0
    following = values.new_zeros(len(values)) if after is None else after
    total, returns = following, torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        here = counted[:, t]
        total = torch.where(here, rewards[:, t] + gamma * ((1 - lam) * following + lam * total), total)
        following = torch.where(here, values[:, t], following)
        returns[:, t] = torch.where(here, total, returns[:, t])
    return returns


def length_lambda(lengths: Tensor, alpha: float, floor: float) -> Tensor:
    """Lambda of each response by its length l, 1 - 1 / (alpha l), at least `floor` (VAPO, arXiv 2504.05118, eq. 5).

    The weights lambda^k then reach over a share alpha of any response. The floor is ours: at VAPO's alpha of 0.05
    lambda would be 0 at 20 tokens and negative below, and brief answers would learn from the critic's next value alone.

    Args:
        lengths: [sequences], tokens that count.
        alpha: above 0.
        floor: in [0, 1].

    Returns:
        [sequences], in [floor, 1).
    """
    return (1 - 1 / (alpha * lengths.clamp_min(1))).clamp_min(floor)


@torch.no_grad()
def critic_fit(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """How well values foretell returns over a whole batch: 1 is perfect, 0 a constant, below it is worse than one.

    - explained_variance: 1 - Var(G - V) / Var(G), blind to an offset that all values share.
    - r_squared: 1 - mean((G - V)^2) / Var(G), which is not: below 0 the mean return would have served better.

    Take Monte Carlo returns (lambda 1): with a lower lambda they hold the critic's own values, and praise it for them.

    Args:
        values: [sequences, positions], before the update that learns from these returns.
        returns: [sequences, positions].
        mask: [sequences, positions], 1 where the token counts; others are never read.

    Returns:
        both; 0.0 where the returns do not vary, since there is nothing to foretell.
    """
    counted = mask > 0
    target = returns[counted].double()
    error = target - values[counted].double()
    variance = float(target.var(correction=0)) if len(target) else 0.0
    if variance < 1e-12:
        return {"explained_variance": 0.0, "r_squared": 0.0}
    return {
        "explained_variance": 1 - float(error.var(correction=0)) / variance,
        "r_squared": 1 - float(error.square().mean()) / variance,
    }
