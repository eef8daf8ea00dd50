"""Seconds of a step by phase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Phases:
    """Adds up the wall-clock seconds spent in named phases of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time inside the `with` towards `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def add(self, name: str, seconds: float) -> None:
        """Counts time towards `name` that was spent for this step before it began."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._began -= seconds

    @property
    def total(self) -> float:
        """Seconds since the step began, phases and what lies between them."""
        return time.monotonic() - self._began
