"""Prints the tables of carriers and refusals as Markdown, as docs/reward_server.md holds them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from reward_server.verifiers.carriers import ALL, LEADS, REASONS, SUFFIXES, TAILS, Task
from reward_server.verifiers.plain import MARKUP
from reward_server.verifiers.refusals import REFUSALS

# A right answer to each task, and the question that the examples of both tables are about.
SAMPLES: dict[Task, str] = {"choice": "C", "number": "5.2", "date": "09/03/2014", "duration": "17 weeks, 6 days"}
SAMPLE_OPTIONS = {"A": "Aspirin", "B": "5 mg", "C": "Heparin", "D": "Warfarin"}


def _shown(text: str) -> str:
    return (
        "`" + text.replace("|", "\\|").replace("\n", " ") + "`"
        if "`" not in text
        else f"`` {text} ``".replace("|", "\\|")
    )


def table() -> Iterator[str]:
    """Both tables as lines of Markdown."""
    yield "| carrier | read as the answer | for |"
    yield "|---|---|---|"
    for markup in MARKUP:
        if markup.example:
            yield f"| {markup.name} | {_shown(markup.example.format('C'))} | all |"
    for carrier in (*LEADS, *TAILS, *SUFFIXES, *REASONS):
        examples = ", ".join(_shown(example.format(SAMPLES[carrier.tasks[0]])) for example in carrier.examples)
        yield f"| {carrier.name} | {examples} | {'all' if carrier.tasks == ALL else ', '.join(carrier.tasks)} |"
    yield ""
    yield "| refused | task | never paid |"
    yield "|---|---|---|"
    for refusal in REFUSALS:
        for task, examples_of in refusal.examples.items():
            yield f"| {refusal.name} | {task} | {', '.join(map(_shown, examples_of))} |"


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(prog="python -m reward_server.verifiers.tables", description=__doc__).parse_args()
    print("\n".join(table()))


if __name__ == "__main__":
    main()
