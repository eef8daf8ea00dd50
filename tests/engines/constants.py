"""Numbers that the worker and the reference share; apart, since importing the worker patches torch for Megatron."""

from __future__ import annotations

from typing import Any

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
# What differs from GRPO's objective, by name.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "gspo": {"ratio": "sequence", "reduction": "sequence"},
    "cispo with entropy": {"surrogate": "cispo", "entropy_coef": 0.2},
    "dual clip": {"dual_clip": 1.1, "reduction": "sequence"},
}
# Bytes of a bucket in which weights are handed over: a layer each, two layers, everything.
BUCKETS = (1, 200_000, 2**30)
# Settings of PPO that have little in common.
PPO: dict[str, dict[str, Any]] = {
    "ppo": {
        **{"gamma": 0.98, "critic_lambda": 0.9, "policy_lambda": 0.8, "length_alpha": None, "kl_coef": 0.3},
        **{"cut": "terminal", "whiten": True, "positive_coef": 0.0, "value_clip": 0.2, "epochs": 2},
        **{"clip_low": 0.2, "clip_high": 0.2},
    },
    "vapo": {
        **{"gamma": 1.0, "critic_lambda": 1.0, "policy_lambda": 0.5, "length_alpha": 0.2, "kl_coef": 0.0},
        **{"cut": "bootstrap", "whiten": False, "positive_coef": 0.1, "value_clip": None, "epochs": 1},
        **{"clip_low": 0.2, "clip_high": 0.28},
    },
}


def ppo_overrides(name: str) -> list[str]:
    """The settings of `PPO[name]`, as a run is given them."""
    chosen = dict(PPO[name])
    own = {"critic.clip": chosen.pop("value_clip"), "critic.epochs": chosen.pop("epochs")}
    own |= {f"algorithm.{key}": value for key, value in chosen.items()}
    given = [f"{key}={'null' if value is None else value}" for key, value in own.items()]
    return [f"algorithm={name}", *given, "critic.optimizer.weight_decay=0.05", "critic.optimizer.eps=1e-4"]
