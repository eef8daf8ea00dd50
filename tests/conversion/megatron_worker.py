"""One process of a torchrun job: load converted checkpoints into GPTModels, compare logits, save them again.

Arguments: tensor and pipeline parallel size, then a folder with `<case>/` checkpoints and `<case>.pt` files holding the
tokens and transformers' logits. Rank 0 writes `result.json` (case -> what was found) and, for the cases named in
`save.json`, `<case>-saved/model`, written by megatron-core itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from conversion.checkpoint import open_checkpoint
from conversion.families import MegatronArchitecture
from recipes.engines.megatron import cpu

cpu.install()

from megatron.core import dist_checkpointing, parallel_state, tensor_parallel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


def build(architecture: MegatronArchitecture, tensor: int, pipeline: int) -> GPTModel:
    """A GPTModel straight from megatron-core's own local spec, its vocabulary padded to a multiple of 32."""
    config = TransformerConfig(
        num_layers=architecture.num_layers,
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_attention_heads,
        num_query_groups=architecture.num_query_groups,
        kv_channels=architecture.kv_channels,
        ffn_hidden_size=architecture.ffn_hidden_size,
        layernorm_epsilon=architecture.layernorm_epsilon,
        gated_linear_unit=architecture.gated_linear_unit,
        activation_func=torch.nn.functional.silu,
        normalization=architecture.normalization,
        add_bias_linear=architecture.add_bias_linear,
        add_qkv_bias=architecture.add_qkv_bias,
        qk_layernorm=architecture.qk_layernorm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        pipeline_dtype=torch.float32,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
    )
    scaling = architecture.rope_scaling
    return GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(
            qk_layernorm=architecture.qk_layernorm, normalization=architecture.normalization
        ),
        vocab_size=-(-architecture.vocab_size // 32) * 32,
        max_sequence_length=architecture.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=architecture.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_base=architecture.rotary_base,
        rope_scaling=scaling is not None,
        rope_scaling_factor=scaling.factor if scaling else 1.0,
        seq_len_interpolation_factor=architecture.seq_len_interpolation_factor,
    ).eval()


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


def main() -> None:
    tensor, pipeline, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor, pipeline)
    model_parallel_cuda_manual_seed(1)
    results: dict[str, Any] = {}
    to_save = json.loads((root / "save.json").read_text())
    for reference in sorted(root.glob("*.pt")):
        case = reference.stem
        checkpoint = open_checkpoint(root / case)
        model = build(checkpoint.architecture, tensor, pipeline)
        results[case] = load(model, checkpoint.model_dir)
        tokens, expected = torch.load(reference)
        found = logits(model, tokens)
        difference = torch.zeros(1)
        if found is not None:
            vocabulary = expected.shape[-1]
            difference[0] = (found[..., :vocabulary] - expected).abs().max()
            results[case]["columns"] = found.shape[-1]
        dist.all_reduce(difference, dist.ReduceOp.MAX)
        results[case]["difference"] = float(difference)
        if case in to_save:
            folder = root / f"{case}-saved" / "model"
            if dist.get_rank() == 0:
                folder.mkdir(parents=True)
            dist.barrier()
            dist_checkpointing.save(model.sharded_state_dict(), str(folder))
    if dist.get_rank() == 0:
        (root / "result.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
