"""The worker extension with faults that can be switched on; runs in vLLM's workers, where nothing of ours else does."""

from __future__ import annotations

import recipes.sampling.vllm.worker as worker

_PACK = worker._pack_tied_head


class Extension(worker.Extension):
    def break_tied_head(self, broken: bool) -> None:
        worker._pack_tied_head = (lambda model: None) if broken else _PACK
