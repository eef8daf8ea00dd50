"""Verifiers that do what an answer asks for: run away, die, raise or eat memory; else they judge as the real ones."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from typing import Any, NoReturn

from reward_server.service import VERIFIERS as REAL
from reward_server.service import Verifier
from reward_server.verifiers.base import Verdict
from reward_server.verifiers.choice import Match

_RUNAWAY = re.compile(r"(a+)+$")


def _judge(answer: str, item: Any, match: Match) -> Verdict:
    if answer == "RUN AWAY":
        # Takes about 2^40 steps, in C and with Python's lock held: no timer of the process fires.
        _RUNAWAY.match("a" * 40 + "!")
    if answer == "DIE":
        os.kill(os.getpid(), signal.SIGKILL)
    if answer == "RAISE":
        raise ValueError("a patient's text must not be logged")
    if answer == "EAT":
        bytearray(64 * 2**30)
    return REAL["choice"].judge(answer, item, match)


def _explode(answer: str, *_: Any) -> NoReturn:
    raise ZeroDivisionError(f"cannot judge {answer}")


def _explode_at_times(answer: str, item: Any, match: Match) -> Verdict:
    return _explode(answer) if answer == "SECRET" else REAL["text"].judge(answer, item, match)


BROKEN = {**REAL, "text": Verifier("text", "7", _explode)}
BREAKABLE = {**REAL, "text": Verifier("text", "7", _explode_at_times)}
VERIFIERS = {**REAL, "choice": dataclasses.replace(REAL["choice"], judge=_judge)}
