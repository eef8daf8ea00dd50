"""The training side's door to the reward server: connections, deadlines, retries, checked answers.

Imports neither FastAPI nor a verifier. A fault of the network or the server is waited out until the total deadline and
then raised; it never becomes a reward.
"""

from __future__ import annotations

from reward_server.client.asynchronous import AsyncRewardClient
from reward_server.client.blocking import RewardClient
from reward_server.client.definition import RewardDefinitionError
from reward_server.client.wire import (
    MAX_BATCH_CHARS,
    MAX_BATCH_ITEMS,
    SERVER_FAULTS,
    STATUSES,
    Length,
    PresetInfo,
    RewardClientError,
    RewardProtocolError,
    RewardServerUnavailable,
    Score,
    ScoreItem,
    Status,
    Task,
)

__all__ = [
    "MAX_BATCH_CHARS",
    "MAX_BATCH_ITEMS",
    "SERVER_FAULTS",
    "STATUSES",
    "AsyncRewardClient",
    "Length",
    "PresetInfo",
    "RewardClient",
    "RewardClientError",
    "RewardDefinitionError",
    "RewardProtocolError",
    "RewardServerUnavailable",
    "Score",
    "ScoreItem",
    "Status",
    "Task",
]
