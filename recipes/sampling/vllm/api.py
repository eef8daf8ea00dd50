"""vLLM's API server: `python -m recipes.sampling.vllm.api`, with the arguments of `vllm.entrypoints.openai.api_server`.

On a CPU its processes give their cores back as soon as they wait for one another. vLLM has them spin for a second after
every message, two processes on two cores, which is the better part of a small machine that trainer and server share.
"""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

# As good as none: what a process wakes up by comes in microseconds.
_SPIN_S = 0.001


def on_cpu() -> bool:
    """Whether this machine has no NVIDIA GPU."""
    return not any(Path("/dev").glob("nvidia[0-9]*"))


def _spin_less() -> None:
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    # A release of vLLM that waits otherwise is left as it is.
    if list(inspect.signature(SpinCondition.__init__).parameters)[-1] == "busy_loop_s":
        SpinCondition.__init__.__defaults__ = (_SPIN_S,)


# In the engine's process too, which imports this module before it begins, or is forked from here.
if on_cpu() and __name__ in ("__main__", "__mp_main__"):
    _spin_less()

if __name__ == "__main__":
    # This module stays the main one, so that processes that vLLM spawns import it.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
