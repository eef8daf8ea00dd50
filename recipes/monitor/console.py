"""Standard output as rich writes it, with its failures raised and not turned into a silent exit."""

from __future__ import annotations

from rich.console import Console


class OutputConsole(Console):
    """A console whose `print` raises BrokenPipeError once nobody reads standard output any more."""

    def on_broken_pipe(self) -> None:
        """Called by rich in the middle of handling the error."""
        raise
