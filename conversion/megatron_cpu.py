"""Lets megatron-core 0.16 run on CPU with gloo: every patch in one file, each with the upstream file that it mends.

megatron-core asks CUDA for devices, streams and random state even where nothing runs on a GPU. `install()` answers for
it and mends what its CPU path never met. It must run before the first import of `megatron.core`, and does nothing
where a GPU is in use. Transformer Engine and Apex are hidden from the process where they are installed. Left out: CUDA
graphs and the dynamic inference engine, which are CUDA.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import warnings
from typing import Any

import torch

from conversion.device import on_gpu

_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint", "as_tensor", "linspace")
_LIKE = ("zeros_like", "ones_like", "empty_like", "full_like")

# Top-level modules of Transformer Engine and of Apex.
_CUDA_LIBRARIES = ("transformer_engine", "transformer_engine_torch", "apex", "amp_C", "fused_weight_gradient_mlp_cuda")


class _NoStream:
    """Stands for a CUDA stream or event: every method returns at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = None

    def __enter__(self) -> _NoStream:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: self

    def query(self) -> bool:
        return True


class _NoEvent(_NoStream):
    """A separate type, since megatron-core tells streams and events apart."""

    def elapsed_time(self, _: Any) -> float:
        return 0.0


def _returning(value: Any) -> Any:
    return lambda *_, **__: value


def _hide_cuda_libraries() -> None:
    """megatron/core, everywhere: it takes their norms, Adam and norm of gradients wherever they can be imported.

    None in sys.modules fails every later import of a name, as if it were not installed.
    """
    loaded = [name for name in sys.modules if name.partition(".")[0] in _CUDA_LIBRARIES]
    sys.modules.update(dict.fromkeys((*_CUDA_LIBRARIES, *loaded)))  # type: ignore[arg-type]  # None is meant


def _patch_jit() -> None:
    """megatron/core/jit.py: jit_fuser is torch.compile, which would build C++ for every fused function on CPU."""
    module = types.ModuleType("megatron.core.jit")
    identity = lambda function: function  # noqa: E731
    module.__dict__.update(noop_decorator=identity, jit_fuser=identity)
    module.__dict__.update(enable_jit_fuser=_returning(None), disable_jit_fuser=_returning(None))
    sys.modules["megatron.core.jit"] = module


def _patch_cuda_queries() -> None:
    """megatron/core, everywhere: torch.cuda.current_device(), memory counters, streams and events without a guard."""
    cuda: Any = torch.cuda
    cuda.current_device = _returning(torch.device("cpu"))
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "init"):
        setattr(cuda, name, _returning(None))
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(cuda, name, _returning(0))
    cuda.is_current_stream_capturing = _returning(False)
    cuda.Stream, cuda.Event = _NoStream, _NoEvent
    cuda.stream = lambda *_: contextlib.nullcontext()
    stream = _NoStream()
    cuda.current_stream, cuda.default_stream = _returning(stream), _returning(stream)
    for name in ("range_push", "range_pop", "mark"):
        setattr(cuda.nvtx, name, _returning(None))


def _patch_random() -> None:
    """megatron/core/tensor_parallel/random.py: the one CPU generator plays the CUDA generator's part."""
    cuda: Any = torch.cuda
    cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed))
    cuda.get_rng_state = cuda.random.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.set_rng_state = cuda.random.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _patch_factories() -> None:
    """megatron/core, everywhere: factories called with device="cuda", and Tensor.cuda()."""

    def is_cuda(where: Any) -> bool:
        return where is not None and torch.device(where).type == "cuda" if isinstance(where, str) else False

    for name in _FACTORIES + _LIKE:
        original = getattr(torch, name)

        @functools.wraps(original)
        def factory(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            if is_cuda(kwargs.get("device")):
                kwargs["device"] = torch.device("cpu")
            kwargs.pop("pin_memory", None)
            return _original(*args, **kwargs)

        setattr(torch, name, factory)
    tensor: Any = torch.Tensor
    module: Any = torch.nn.Module
    tensor.cuda = module.cuda = lambda self, *_, **__: self


def _patch_tensor_type() -> None:
    """megatron/core/optimizer/optimizer.py: parameters are sorted by `param.type() == "torch.cuda.FloatTensor"`."""
    tensor: Any = torch.Tensor
    original = tensor.type

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(result, str) and caller.startswith("megatron"):
            return result.replace("torch.", "torch.cuda.", 1)
        return result

    tensor.type = type_name


def _patch_megatron_random() -> None:
    """megatron/core/tensor_parallel/random.py: reads CUDA's generator through a private extension."""
    import megatron.core.tensor_parallel.random as random

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _patch_router() -> None:
    """megatron/core/transformer/moe/moe_utils.py: te_general_gemm is read even where its import has failed."""
    import megatron.core.transformer.moe.moe_utils as moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def patch_torch() -> None:
    """What any megatron-core of these years needs, and needs hidden from it; before the first import of one."""
    _hide_cuda_libraries()
    _patch_jit()
    _patch_cuda_queries()
    _patch_random()
    _patch_factories()
    _patch_tensor_type()


_installed = False


def install() -> None:
    """Makes megatron-core importable and usable in this process on CPU; a no-op on GPU and when called again."""
    global _installed
    if _installed or on_gpu():
        return
    _installed = True
    # What megatron-core and torch say on every start about GPUs, Apex and their own deprecated calls.
    warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine|transformer_engine|CUDA_DEVICE_MAX).*")
    warnings.filterwarnings(
        "ignore", message=".*(full scope is deprecated|load_state_dict|save_state_dict|DTensor|is deprecated. Please).*"
    )
    # The float32 shards of its distributed optimizer are views of the weights.
    warnings.filterwarnings("ignore", message=".*attribute of a Tensor that is not a leaf.*")
    patch_torch()
    _patch_megatron_random()
    _patch_router()
