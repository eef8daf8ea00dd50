"""Seconds and memory of comparing training rows with the questions of an evaluation, read from JSONL on this machine.

    python benchmarks/contamination.py [--rows 100000] [--questions 20000] [--folder FOLDER]

Rows are made up: words by a power law out of 30,000; four of five are a case of 60 to 240 words that begins and ends in
phrases that all share, one of five asks one of 55 questions about a note of 100 to 700 words, as lengths are in MedQA
and MedCalc-Bench. Of the training rows one in a hundred is a question of the evaluation in capitals, one in a hundred
such a question with a word changed in every 40, and one in a hundred asks something else about one of its notes.

A process of its own reads both files and compares every row, as training does at its start; its time and peak memory
are taken from the kernel, Python's start included. The last line is one JSON object:

    seconds     of the process
    cpu_s       of them on a core: what is above that, it waited for others' work
    peak_gib    resident memory, 2**30 bytes
    found       rows by kind of likeness
    planted     rows that are alike
    missed      planted rows that were not found
    false       rows found that were not planted
    rows, questions, megabytes, cores, date
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 900
BEGIN = "year old patient comes to the physician because of"
END = "which of the following is the most appropriate next step in the management of this patient"
VOCABULARY = [f"w{number}" for number in range(30_000)]
WEIGHTS = list(accumulate(1 / (rank + 20) for rank in range(len(VOCABULARY))))
EVERY = 100
CHANGED = 40


def draw(rng: random.Random, low: int, high: int) -> list[str]:
    return rng.choices(VOCABULARY, cum_weights=WEIGHTS, k=rng.randint(low, high))


def row(rng: random.Random, identity: str, asked: list[str]) -> dict[str, str | float]:
    common: dict[str, str | float] = {"id": identity, "source": "made up", "license": "CC0-1.0"}
    if rng.random() < 0.2:
        note = " ".join(draw(rng, 100, 700))
        limits = {"answer": 2.0, "lower": 1.0, "upper": 3.0}
        return {**common, "task": "number", "context": note, "question": rng.choice(asked), **limits}
    case = f"A {rng.randint(20, 90)} {BEGIN} {' '.join(draw(rng, 40, 220))}. {END}?"
    return {**common, "task": "text", "question": case, "answer": rng.choice(VOCABULARY)}


def planted(rng: random.Random, questions: list[dict[str, str | float]], number: int) -> dict[str, str | float]:
    """A training row that is alike, by turns in three ways."""
    notes = [question for question in questions if "context" in question] if number % 3 == 2 else questions
    found = {**rng.choice(notes), "id": f"planted/{number}"}
    if number % 3 == 0:
        return {**found, "question": str(found["question"]).upper()}
    if number % 3 == 2:
        return {**found, "question": "How many words does the note have?"}
    field = "context" if "context" in found else "question"
    words = str(found[field]).split()
    words[CHANGED::CHANGED] = ["changed"] * len(words[CHANGED::CHANGED])
    return {**found, field: " ".join(words)}


def write(folder: Path, rows: int, count: int) -> None:
    rng = random.Random(0)
    asked = [" ".join(draw(rng, 7, 85)) + "?" for _ in range(55)]
    questions = [row(rng, f"test/{number}", asked) for number in range(count)]
    with (folder / "test.jsonl").open("w") as file:
        file.writelines(json.dumps(question) + "\n" for question in questions)
    with (folder / "train.jsonl").open("w") as file:
        for number in range(rows):
            alike = number % EVERY < 3
            made = planted(rng, questions, number % EVERY + 3 * number) if alike else row(rng, f"train/{number}", asked)
            file.write(json.dumps(made) + "\n")


def compare(train: Path, test: Path) -> None:
    """What the measured process does."""
    # Beside this file lies one with the name of a package, and its folder comes first.
    sys.path[0] = str(ROOT)
    from recipes.data.example import iterate_examples
    from recipes.data.held_out import HeldOut

    held_out = HeldOut(iterate_examples(test))
    found: Counter[str] = Counter()
    named: Counter[bool] = Counter()
    for example, matches in held_out.matches(iterate_examples(train)):
        if matches:
            found[matches[0].likeness] += 1
            named[example.id.startswith("planted/")] += 1
    print(json.dumps({"found": found, "right": named[True], "false": named[False]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/contamination"), help="scratch, deleted afterwards")
    parser.add_argument("--compare", action="store_true", help="what the measured process does")
    args = parser.parse_args()
    train, test = args.folder / "train.jsonl", args.folder / "test.jsonl"
    if args.compare:
        compare(train, test)
        return
    args.folder.mkdir(parents=True)
    try:
        write(args.folder, args.rows, args.questions)
        megabytes = (train.stat().st_size + test.stat().st_size) / 1e6
        began = time.perf_counter()
        command = [sys.executable, __file__, "--compare", "--folder", str(args.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout is not None
        told = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            sys.exit(f"{' '.join(command)}: failed; its message stands above")
    finally:
        shutil.rmtree(args.folder)
    result = json.loads(told)
    alike = sum(number % EVERY < 3 for number in range(args.rows))
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
                "peak_gib": round(usage.ru_maxrss / 2**20, 2),
                "found": result["found"],
                "planted": alike,
                "missed": alike - result["right"],
                "false": result["false"],
                "rows": args.rows,
                "questions": args.questions,
                "megabytes": round(megabytes),
                "cores": os.cpu_count(),
                "date": time.strftime("%Y-%m-%d"),
            }
        )
    )


if __name__ == "__main__":
    main()
