"""One rank's pipeline stage of a GPTModel, in the parts that packed batches and the sampler need."""

from __future__ import annotations

import dataclasses

from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from torch import Tensor

from recipes.engines.core.cache import KVCache
from recipes.engines.core.packing import Packing
from recipes.engines.core.plain_layers import PlainLayers
from recipes.engines.core.rotary import RotaryTable
from recipes.runtime.config import Config


def mark_shards(model: GPTModel) -> None:
    """Marks the weights that are divided over tensor parallel ranks.

    megatron-core does so while it initialises weights, which is skipped here; unmarked, they count as copies, and the
    gradient norm is that of the first rank's shards alone.
    """
    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding | ColumnParallelLinear | RowParallelLinear):
            weight = module.weight
            if weight is not None and not hasattr(weight, "tensor_model_parallel"):
                dimension = 1 if isinstance(module, RowParallelLinear) else 0
                set_tensor_model_parallel_attributes(weight, True, dimension, 1)


class Stage:
    """This rank's pipeline stage in its parts: embedding (first stage), layers, output matrix (last stage).

    GPTModel's own forward pass would make logits of every token, and knows no positions but 0, 1, 2, ...
    """

    def __init__(self, model: GPTModel, config: Config) -> None:
        self.model = model
        self.rotary = RotaryTable(model.rotary_pos_emb, config.model.max_length, model.config.params_dtype)
        self.first = parallel_state.is_pipeline_first_stage()
        self.last = parallel_state.is_pipeline_last_stage()

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        seen: Packing | KVCache,
        layers: PlainLayers | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [tokens, rows, hidden size] of ids [rows, tokens] at positions [tokens, rows].

        What tokens see is a packed row, or the cache that the layers' core attention holds. A later stage takes its
        input from `set_input_tensor` instead. Under sequence parallelism it is this rank's part of the tokens.

        Args:
            ids, positions: of the pass; either one row or one token a row.
            seen: by its tokens.
            layers: to compute with in place of the model's own, without gradient.
            wanted: the only tokens of a packed row whose states are wanted.
        """
        states = self.model.embedding(input_ids=ids, position_ids=None) if self.first else None
        rotation = self.rotary.at(positions if layers is None else positions.view(-1, 1))
        if isinstance(seen, Packing):
            # In a copy: with several stages, passes over other micro-batches come before this one's gradient.
            seen = dataclasses.replace(seen, rotation=rotation)
        else:
            seen.rotation = rotation
        if layers is not None:
            states = self.model.decoder.input_tensor if states is None else states
            hidden = layers(states.flatten(0, 1), seen, wanted)
            return hidden.view(-1, states.shape[1], hidden.shape[-1])
        packing = seen if isinstance(seen, Packing) else None
        hidden = self.model.decoder(
            hidden_states=states, attention_mask=None, rotary_pos_emb=None, packed_seq_params=packing
        )
        return hidden if wanted is None else hidden[wanted]

    @property
    def output_weight(self) -> Tensor:
        """[vocabulary / tensor parallel size, hidden size], this rank's part of the output matrix (last stage)."""
        shared = self.model.share_embeddings_and_output_weights
        return self.model.shared_embedding_or_output_weight() if shared else self.model.output_layer.weight

    def whole(self, states: Tensor) -> Tensor:
        """Hidden states [tokens, hidden size] of a packed row, whole on every rank, each with the whole gradient."""
        if self.model.config.sequence_parallel:
            return tensor_parallel.gather_from_sequence_parallel_region(states, tensor_parallel_output_grad=False)[:, 0]
        return states[:, 0]

    def to_output(self, states: Tensor) -> Tensor:
        """Hidden states [tokens, hidden size] of a packed row, whole on every rank, whose gradients are added up."""
        if self.model.config.sequence_parallel:
            return tensor_parallel.gather_from_sequence_parallel_region(states)[:, 0]
        return tensor_parallel.copy_to_tensor_model_parallel_region(states)[:, 0]
