"""The rules between keys of the reward, and between them and the algorithm's; see `recipes.runtime.rules`."""

from __future__ import annotations

from urllib.parse import urlsplit

from recipes.runtime.config import Config, require
from recipes.runtime.limits import KINDS, MEASURES


def check_reward(config: Config) -> None:
    """Servers, deadlines, lengths and metrics; raises ConfigError."""
    reward = config.reward
    for url in (reward.url or "").split(",") if reward.url else ():
        require(
            is_url(url),
            f"reward.url={reward.url}: expected http://HOST:PORT, several with commas between, or null to start a "
            "server for the run",
        )
    require(bool(reward.preset.strip()), "reward.preset= is empty; give the name of a preset, such as gated")
    require(
        reward.attempt_timeout_s <= reward.total_timeout_s,
        f"reward.attempt_timeout_s={reward.attempt_timeout_s:g} is above reward.total_timeout_s="
        f"{reward.total_timeout_s:g}; one request cannot take longer than all of them",
    )
    drawn = reward.length_draw != "fixed"
    require(
        (reward.length_mode == "none") == (reward.length_target is None) or drawn,
        "reward.length_mode and reward.length_target belong together: set both, or mode none and no target; or draw "
        "targets with reward.length_draw",
    )
    require(
        not drawn or (reward.length_mode != "none" and reward.length_target is None),
        f"reward.length_draw={reward.length_draw} draws the targets: set reward.length_mode to max, exact or mixed, "
        "and reward.length_target=null",
    )
    require(
        reward.length_none_share == 0 or reward.length_mode != "none",
        f"reward.length_none_share={reward.length_none_share:g}: with reward.length_mode=none no prompt has a target; "
        "set a mode, or the share to 0",
    )
    require(
        reward.length_low <= reward.length_high,
        f"reward.length_low={reward.length_low} is above reward.length_high={reward.length_high}",
    )
    require(
        (reward.length_shape == "dapo") == (reward.length_buffer is not None)
        and (reward.length_shape != "dapo" or reward.length_mode == "max"),
        "reward.length_shape=dapo needs reward.length_mode=max and reward.length_buffer; other shapes take no buffer",
    )
    require(
        (reward.text_metric in ("exact", "judge")) == (reward.text_threshold is None),
        f"reward.text_metric={reward.text_metric} and reward.text_threshold={reward.text_threshold}: a threshold goes "
        "with every metric but exact and judge",
    )
    require(
        not reward.text_continuous or (reward.preset == "med_u1" and reward.text_metric in MEASURES),
        f"reward.text_continuous is for reward.preset=med_u1 with reward.text_metric one of {', '.join(MEASURES)}, not "
        f"for {reward.preset} with {reward.text_metric}",
    )
    least, key = (reward.length_low, "low") if drawn else (reward.length_target, "target")
    require(
        reward.length_buffer is None or least is None or reward.length_buffer <= least,
        f"reward.length_buffer={reward.length_buffer} is above reward.length_{key}={least}; the "
        "buffer lies before the target",
    )


def check_likelihood(config: Config) -> None:
    """What is rewarded by likelihood, and whether the algorithm can; raises ConfigError."""
    reward = config.reward
    strange = set(reward.likelihood) - set(KINDS)
    require(not strange, f"reward.likelihood: {sorted(strange)} are not kinds of task; expected {', '.join(KINDS)}")
    require(
        not reward.likelihood_filter or bool(reward.likelihood),
        f"reward.likelihood_filter={reward.likelihood_filter:g} compares groups of reward.likelihood; name kinds of "
        "task there, or set it to 0",
    )
    algorithm = config.algorithm
    for key, fits in (
        ("advantage", algorithm.advantage in ("grpo", "dr_grpo", "rloo")),
        ("ratio", algorithm.ratio == "token"),
        ("tasks", algorithm.tasks != "components"),
    ):
        require(
            not reward.likelihood or fits,
            f"algorithm.{key}={getattr(algorithm, key)}: reward.likelihood gives a response one advantage and the "
            "tokens of its answer none; take algorithm.advantage grpo, dr_grpo or rloo, algorithm.ratio=token, and "
            "algorithm.tasks other than components",
        )


def is_url(text: str) -> bool:
    """Whether it is the address of a server."""
    try:
        parts = urlsplit(text.strip())
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in parts.netloc
        )
    except ValueError:  # a port that is no number, or brackets that do not close
        return False
