"""What the estimates know of a GPU, its links and the kernels that run on it.

Peak figures are in configs/cluster. What is reached of them is in the constants below, all for H100: two are fitted,
each on one published row (docs/plan.md names them), the others come from the source beside them or are estimates and
say so. Left out: clocks that fall under load, other jobs on the network, slow nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.runtime.config import ClusterConfig


@dataclass(frozen=True)
class Gpu:
    """A GPU and its place in a node; rates are peaks, a direction.

    Attributes:
        memory: bytes that a plan may count on.
        bf16, fp8: dense matrix products, floating-point operations a second.
        hbm: bytes a second of its own memory.
        nvlink: bytes a second to another GPU of the node.
        network: bytes a second to a GPU of another node.
        host: bytes a second between its memory and host memory.
        node_memory: bytes of host memory of its node.
    """

    name: str
    memory: float
    bf16: float
    fp8: float
    hbm: float
    nvlink: float
    network: float
    host: float
    per_node: int
    node_memory: float


def gpu_of(cluster: ClusterConfig) -> Gpu:
    """The configured GPU."""
    return Gpu(
        name=cluster.name,
        memory=1e9 * cluster.memory_gb,
        bf16=1e12 * cluster.bf16_tflops,
        fp8=1e12 * cluster.fp8_tflops,
        hbm=1e9 * cluster.hbm_gb_s,
        nvlink=1e9 * cluster.nvlink_gb_s,
        network=1e9 * cluster.network_gb_s,
        host=1e9 * cluster.host_gb_s,
        per_node=cluster.gpus_per_node,
        node_memory=1e9 * cluster.node_memory_gb,
    )


# Share of peak that matrix products reach while training. Fitted on torchtitan's 8B bfloat16 row; used for FP8 too.
MATMUL_SHARE = 0.45
# Share of HBM's peak that element-wise kernels and decoding reach: estimate.
HBM_SHARE = 0.8
# Share of a link's peak that large collectives reach: estimate.
LINK_SHARE = 0.8
# A collective between GPUs of one node on a few kilobytes: estimate, of what NCCL's tests show for small messages.
LATENCY_S = 15e-6
# FP8 casts of activations and gradients beside what element-wise kernels move in bfloat16: estimate.
FP8_ELEMENTS = 1.5
# Scheduling, launches and sampling of an inference engine for one token of every response. Fitted on NeMo-RL's 8B
# on-policy row, less what the hand-over of weights takes of it.
ENGINE_STEP_S = 0.0054
# From a step's end until an inference engine answers with its weights: bytes a second, fitted on NeMo-RL's 14 s at 70B,
# and what is left of it for a small model: estimate, of what NeMo-RL's and verl's seconds at 7B to 72B tend to.
HANDOVER_BYTES_S = 14.1e9
HANDOVER_S = 4.0
# The embedded sampler launches every kernel from Python: time a layer and token step. Estimate that no published row
# checks: some thirty launches a layer, each behind megatron-core's and torch's Python, of 20 to 25 microseconds.
EAGER_LAYER_S = 0.7e-3
# CUDA context, communicators' buffers, Transformer Engine's workspaces, fragmentation: estimate.
OVERHEAD_BYTES = 5e9
# What plans say of themselves. Of time: the median of benchmarks/plan.py, rounded up, over rows that nothing was fitted
# on. Of memory: estimate; the three published anchors are within 10 %.
MEDIAN_ERROR_PERCENT = 20
MEMORY_ERROR_PERCENT = 15


@dataclass(frozen=True)
class Kernels:
    """How good a framework's kernels are.

    Attributes:
        attention: share of bfloat16's peak in attention. FlashAttention-2, which torch's scaled_dot_product_attention
            runs, has 0.35 on H100, FlashAttention-3 up to 0.75 forward and less backward (arXiv 2407.08608).
        hides_tensor_parallel: whether tensor parallel communication runs beside matrix products.
    """

    attention: float
    hides_tensor_parallel: bool


OURS = Kernels(attention=0.35, hides_tensor_parallel=False)
