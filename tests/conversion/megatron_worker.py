"""One process of a torchrun job: load converted checkpoints into GPTModels, compare logits, save them again.

Arguments: tensor, pipeline and expert parallel size, then a folder with `jobs.json`: name -> {checkpoint, saved,
reference?}, the last a torch file with tokens and transformers' logits. Rank 0 writes `result.json` (name -> what was
found); megatron-core itself writes `saved`/model.
"""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from conversion import megatron_cpu
from conversion.checkpoint import open_checkpoint
from conversion.families import MegatronArchitecture

megatron_cpu.install()

from megatron.core import dist_checkpointing, parallel_state, tensor_parallel  # noqa: E402
from megatron.core.dist_checkpointing.strategies import filesystem_async  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from conversion.megatron_model import NO_FUSION, gpt_arguments, transformer_arguments  # noqa: E402

# A synchronous save needs no manager process, whose start would take most of the time here.
filesystem_async._results_queue = queue.Queue()


class Layout(NamedTuple):
    tensor: int
    pipeline: int
    expert: int


def build(architecture: MegatronArchitecture, layout: Layout, dtype: torch.dtype) -> GPTModel:
    """A GPTModel straight from megatron-core's own local spec, its vocabulary padded."""
    config = TransformerConfig(
        **transformer_arguments(architecture),
        **NO_FUSION,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.tensor,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        use_cpu_initialization=True,
    )
    model = GPTModel(
        **gpt_arguments(architecture, tensor_parallel=layout.tensor),
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(
            num_experts=architecture.moe.num_experts if architecture.moe else None,
            qk_layernorm=architecture.qk_layernorm,
            normalization=architecture.normalization,
        ),
        max_sequence_length=architecture.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )
    # torch's norm, which the local spec takes on CPU, knows nothing of params_dtype.
    return model.to(dtype).eval()


def load(model: GPTModel, folder: Path) -> dict[str, list[str]]:
    """Load; returns the keys that the model asked for in vain and those of the checkpoint that it did not ask for."""
    # megatron-core calls "missing" what the checkpoint has and the model does not ask for.
    loaded, not_asked, not_stored = dist_checkpointing.load(
        model.sharded_state_dict(), str(folder), strict=dist_checkpointing.validation.StrictHandling.RETURN_ALL
    )
    model.load_state_dict(loaded)
    return {"not_stored": sorted(not_stored), "not_asked": sorted(not_asked)}


@torch.no_grad()
def logits(model: GPTModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """Logits [batch, sequence, padded vocabulary] on the last stage, None elsewhere."""
    batch, length = tokens.shape
    if not parallel_state.is_pipeline_first_stage():
        hidden = torch.empty(length, batch, model.config.hidden_size)
        dist.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden)
    positions = torch.arange(length)[None].expand(batch, length)
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
    output: torch.Tensor = model(tokens, positions, mask)
    if parallel_state.is_pipeline_last_stage():
        return tensor_parallel.gather_from_tensor_model_parallel_region(output)
    dist.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
    return None


def run(job: dict[str, str], layout: Layout) -> dict[str, Any]:
    """Loads one checkpoint, compares logits where a reference is given, and saves it again."""
    checkpoint = open_checkpoint(job["checkpoint"])
    dtype: torch.dtype = getattr(torch, checkpoint.manifest.dtype)
    model = build(checkpoint.architecture, layout, dtype)
    result: dict[str, Any] = load(model, checkpoint.model_dir)
    if "reference" in job:
        tokens, expected = torch.load(job["reference"])
        found, difference = logits(model, tokens), torch.zeros(1)
        if found is not None:
            difference[0] = (found[..., : expected.shape[-1]] - expected).abs().max()
        dist.all_reduce(difference, dist.ReduceOp.MAX)
        result["difference"] = float(difference)
    if dist.get_rank() == 0:
        Path(job["saved"], "model").mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(model.sharded_state_dict(), str(Path(job["saved"], "model")))
    return result


def main() -> None:
    layout, root = Layout(*map(int, sys.argv[1:4])), Path(sys.argv[4])
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(
        layout.tensor,
        layout.pipeline,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.tensor,
    )
    model_parallel_cuda_manual_seed(1)
    jobs = json.loads((root / "jobs.json").read_text())
    results = {name: run(job, layout) for name, job in jobs.items()}
    if dist.get_rank() == 0:
        (root / "result.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
