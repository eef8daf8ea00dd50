"""The reward server of a run: a running one that the configuration names, or one started for the run's length."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator

from recipes.runtime.config import RewardConfig
from recipes.runtime.launch import SHARE_OF_WAIT, is_leader
from reward_server.client import RewardClient
from reward_server.process import RewardServerProcess

READY_DEADLINE_S = 60.0


@contextlib.contextmanager
def reward_client(
    config: RewardConfig, ready_s: float = READY_DEADLINE_S, ranks_wait_s: float = math.inf
) -> Iterator[RewardClient | None]:
    """A client of a server that is ready within `ready_s` seconds on rank 0, None on the others.

    The others wait `ranks_wait_s` seconds for what rank 0 hears (`parallel.timeout_minutes`). It gives the server up
    before that, whatever `reward.total_timeout_s` says, so that the run ends with its sentence.
    """
    if not is_leader():
        yield None
        return
    total_s = min(config.total_timeout_s, SHARE_OF_WAIT * ranks_wait_s)
    with contextlib.ExitStack() as stack:
        url = config.url or stack.enter_context(RewardServerProcess()).url
        client = stack.enter_context(
            RewardClient(
                url.split(","),
                attempt_timeout_s=min(config.attempt_timeout_s, total_s),
                total_timeout_s=total_s,
                token=os.environ.get("MEDATRON_REWARD_TOKEN"),
                on_retry=lambda message: print(
                    f"waiting for the reward server: {message}", file=sys.stderr, flush=True
                ),
            )
        )
        client.wait_ready(ready_s)
        yield client
