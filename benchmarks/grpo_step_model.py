"""The random-weight Qwen2 model, tokenizer and prompts that both sides of benchmarks/grpo_step.py use.

    python benchmarks/grpo_step_model.py FOLDER [--stop-mean 0] [--prompt-tokens 28]

With --stop-mean N every sampled token is the end token with probability about 1/N whatever the context, so the lengths
of responses are spread geometrically: channel 0 of the residual stream is a constant that no layer writes to, and only
the end token's output row reads it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

HIDDEN, LAYERS, VOCABULARY, END = 256, 4, 2048, 1


def sentence(rng: random.Random) -> str:
    return (
        f"the patient has Na {rng.randint(120, 150)} Cl {rng.randint(90, 115)} HCO3 {rng.randint(10, 30)} "
        f"glucose {rng.randint(60, 400)} and creatinine {rng.uniform(0.4, 4):.2f}. "
    )


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator([sentence(rng) for _ in range(3000)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<eos>")
    # The question is the prompt as it stands, so that both sides see the same tokens.
    fast.chat_template = "{{ messages[0].content }}"
    return fast


@torch.no_grad()
def end_at_random(model: Qwen2ForCausalLM, mean: float) -> None:
    """Makes the end token's probability about 1 / mean at every position."""
    # The size that channel 0 has beside the other channels' embedding norm.
    model.model.embed_tokens.weight[:, 0] = 0.02 * math.sqrt(HIDDEN)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    model.lm_head.weight[:, 0] = 0
    model.lm_head.weight[END] = 0
    ids = torch.randint(2, VOCABULARY, (8, 128))
    channel = model.model(ids).last_hidden_state[..., 0].mean().item()
    normalizer = torch.logsumexp(model(ids).logits, -1).mean().item()
    model.lm_head.weight[END, 0] = (normalizer - math.log(mean)) / channel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop-mean", type=float, default=0, help="mean length of responses; 0 leaves it to chance")
    parser.add_argument("--prompt-tokens", type=int, default=28)
    parser.add_argument("--prompts", type=int, default=512, help="how many (default: %(default)s)")
    chosen = parser.parse_args()
    rng = random.Random(0)
    torch.manual_seed(0)
    tokenizer = make_tokenizer(rng)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN * 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=not chosen.stop_mean,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    if chosen.stop_mean:
        end_at_random(model, chosen.stop_mean)
    model.save_pretrained(chosen.folder)
    tokenizer.save_pretrained(chosen.folder)
    prompts = []
    for _ in range(chosen.prompts):
        text = ""
        while len(tokenizer(text).input_ids) < chosen.prompt_tokens:
            text += sentence(rng)
        prompts.append(tokenizer.decode(tokenizer(text).input_ids[: chosen.prompt_tokens]))
    (chosen.folder / "prompts.json").write_text(json.dumps(prompts))


if __name__ == "__main__":
    main()
