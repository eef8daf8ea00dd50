"""The reward that a client was promised: every answer is by one definition of its preset, whoever gives it.

A server that was replaced by another release, or replicas that differ, would change the reward in the middle of a run.
The first answer's definition is the client's from then on, in processes that it is forked into as well. Left out: what
a run was trained with before it was resumed, which its checkpoint tells.
"""

from __future__ import annotations

from reward_server.client.wire import PresetInfo, RewardProtocolError


class RewardDefinitionError(RewardProtocolError):
    """A server defines the preset otherwise than an answer before; the message names both and what to do."""


class Definitions:
    """What each preset was at its first answer. Thread-safe."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[PresetInfo, str]] = {}

    def check(self, found: PresetInfo, url: str) -> None:
        """Takes note of one answer's definition.

        Raises:
            RewardDefinitionError: it is another one than before.
        """
        first, first_url = self._first.setdefault(found.name, (found, url))
        if found == first:
            return
        before = "it" if url == first_url else first_url
        raise RewardDefinitionError(
            f"reward server {url} scores by {_words(found)}, {before} scored by {_words(first)} before; a run has one "
            "definition of its reward: run one release of the server, with one judge, at every URL and resume "
            "(reward.allow_change=true resumes under the new definition)"
        )


def _words(preset: PresetInfo) -> str:
    return f"{preset.name} version {preset.version} (hash {preset.hash})"
