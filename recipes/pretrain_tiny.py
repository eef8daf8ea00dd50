"""Makes the tiny base model that the quickstart starts from: `python -m recipes.pretrain_tiny OUT`.

A Qwen2 model of about a million parameters reads plain documents drawn from the generator's training split: questions
with the imperfect teacher's reasoning, options to be matched with their letters, and sums. It comes out as a base model
does: it has the arithmetic and the letters, its knowledge is as good as what it read, and it has never seen a chat or
the answer tags. Plain torch on CPU, no Megatron: this is how the base comes to be, not how the product trains.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conversion import command
from recipes.data.facts import VALUES
from recipes.data.generator import GROUPS, TEACHER, Generator
from recipes.data.styles import read_style
from recipes.data.work import Work

# What takes seconds to import is imported where it is used: --help does without.
if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

VOCABULARY = 1024
END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
LETTERS = tuple(f" ({letter})" for letter in "ABCDE")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LETTER_WEIGHT = 4
_ALL_VALUES = sorted({value for values in VALUES.values() for value in values})


def _letters_drill(rng: random.Random) -> str:
    pool = rng.choice(list(VALUES.values())) if rng.random() < 0.6 else _ALL_VALUES
    pairs = list(zip(rng.sample(pool, rng.choice((4, 5))), "ABCDE", strict=False))
    listed = ", ".join(f"{text} ({letter})" for text, letter in pairs)
    asked = ", ".join(f"{text} ({letter})" for text, letter in rng.choices(pairs, k=5))
    return f"Options: {listed}\n {asked}"


def _sums_drill(rng: random.Random) -> str:
    work = Work()
    for _ in range(6):
        kind = rng.randrange(6)
        if kind == 0:
            work.add(rng.randint(0, 300), rng.randint(0, 200))
        elif kind == 1:
            work.sub(rng.randint(60, 500), rng.randint(0, 150))
        elif kind == 2:
            work.sub(rng.choice((4, rng.randint(20, 200))), rng.randint(0, 400) / 10)
        elif kind == 3:
            work.add(rng.randint(0, 400) / 10, rng.randint(0, 2000) / 10)
        elif kind == 4:
            work.mul(rng.choice((0.8, 2.3, 2.5, 0.4, 0.024, 1.5, 1.75, 2, 4, 5)), rng.randint(1, 50))
        else:
            work.div(rng.randint(1, 150) * (divisor := rng.choice((2, 3, 4, 5, 18))), divisor)
    return ", ".join(work.steps)


def documents(rng: random.Random) -> Iterator[str]:
    """An endless stream of training documents in plain text, without chat turns or answer tags."""
    generator = Generator("train", TEACHER, TEACHER)
    style = read_style("plain")
    while True:
        kind = rng.choices((*GROUPS, "letters", "sums"), weights=(30, 30, 12, 16, 12))[0]
        if kind == "letters":
            yield _letters_drill(rng)
        elif kind == "sums":
            yield _sums_drill(rng)
        else:
            example = generator.draw(rng, kind)
            trace = example.meta["trace"]
            yield f"{style.asked(example)}\n{trace['think']}\nAnswer:\n{trace['answer']}"


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,024 entries in which every digit, arithmetic sign and option letter is one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    stream = documents(rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[=+\-*/,:().?^\n]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, START_TURN, END_TURN, *TAGS, *LETTERS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((next(stream) for _ in range(30_000)), trainer)
    # Tags and letters are ordinary text to a decoder: only turn and document marks are special.
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_with_plain_text(tokenizer), eos_token=END_TURN, pad_token=END, model_max_length=256
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _with_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        if token["content"] in (*TAGS, *LETTERS):
            token["special"] = False
    return Tokenizer.from_str(json.dumps(state))


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A fresh model: 4 layers of width 128, 4 heads on 2 key-value heads, tied embeddings.

    Embeddings start at std 0.2 and linear layers at 1/sqrt(fan in), those that write to the residual stream smaller by
    sqrt(2 layers): with the usual 0.02 the tokens' identity drowns in so narrow a residual stream.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                std = 0.2 if "embed" in name else 1 / math.sqrt(weight.shape[1])
                weight.normal_(std=std / math.sqrt(2 * config.num_hidden_layers) if "down_proj" in name else std)
        _start_attention(model)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _start_attention(model: Qwen2ForCausalLM) -> None:
    """Starts attention where long training would bring it: heads that match like tokens and copy what they see.

    To answer by letter a model must look an option's text up and copy the letter behind it. From random weights so
    small a model does not find that circuit in an hour; with query = key and output = value transposed (Trockman and
    Kolter 2023, "Mimetic initialization of self-attention layers") and one pair of heads of the first layer looking at
    the token before, through biases that RoPE turns by one position, it does in minutes.
    """
    config = model.config
    width, groups = config.hidden_size // config.num_attention_heads, config.num_key_value_heads
    heads = config.num_attention_heads // groups
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        for group in range(groups):
            key = slice(group * width, (group + 1) * width)
            for head in range(group * heads, (group + 1) * heads):
                query = slice(head * width, (head + 1) * width)
                attention.q_proj.weight[query] = attention.k_proj.weight[key]
                copy = 0.6 if number == 0 else 0.3
                attention.o_proj.weight[:, query] = copy * attention.v_proj.weight[key].T
    first, strength = model.model.layers[0].self_attn, 5.8
    first.k_proj.weight[:width] *= 0.1
    first.q_proj.weight[: heads * width] *= 0.1
    for pair in range(2):
        angle = config.rope_parameters["rope_theta"] ** (-pair / (width // 2))
        first.k_proj.bias[pair] = strength
        for head in range(heads):
            first.q_proj.bias[head * width + pair] = strength * math.cos(angle)
            first.q_proj.bias[head * width + pair + width // 2] = -strength * math.sin(angle)


def _blocks(tokenizer: PreTrainedTokenizerFast, rng: random.Random, batch: int, length: int) -> Iterator[torch.Tensor]:
    import torch

    stream = documents(rng)
    buffer: list[int] = []
    while True:
        while len(buffer) < batch * length:
            texts = [next(stream) + END for _ in range(256)]
            for ids in tokenizer(texts).input_ids:
                buffer.extend(ids)
        yield torch.tensor(buffer[: batch * length]).view(batch, length)
        buffer = buffer[batch * length :]


def _rate(step: int, steps: int, peak: float) -> float:
    warm = 200
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def pretrain(out: Path, *, steps: int, batch: int, length: int, learning_rate: float, seed: int) -> dict[str, float]:
    """Trains the model on `steps` batches of `batch` x `length` tokens and writes it to `out`.

    Returns:
        final loss (nats a token, mean of the last 100 steps), seconds and tokens.
    """
    import torch
    from rich.progress import Progress, TextColumn

    rng = random.Random(seed)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(random.Random(seed + 1))
    model = make_model(tokenizer)
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS)))
    blocks, losses, start = _blocks(tokenizer, rng, batch, length), [], time.monotonic()
    columns = (*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns) as progress:
        bar = progress.add_task("pretraining", total=steps, loss=float("nan"))
        for step in range(steps):
            ids = next(blocks)
            for group in optimizer.param_groups:
                group["lr"] = _rate(step, steps, learning_rate)
            logits = model(ids[:, :-1]).logits
            targets = ids[:, 1:].flatten()
            each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
            weights = 1 + (_LETTER_WEIGHT - 1) * torch.isin(targets, letters)
            ((each * weights).sum() / weights.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(each.detach().mean().item())
            if (step + 1) % 100 == 0:
                recent = sum(losses[-100:]) / 100
                progress.update(bar, completed=step + 1, loss=recent)
                if not progress.console.is_terminal and (step + 1) % 1000 == 0:
                    print(f"step {step + 1}/{steps}  loss {recent:.4f}  {time.monotonic() - start:.0f} s", flush=True)
    result = {
        "loss": round(sum(losses[-100:]) / len(losses[-100:]), 4),
        "seconds": round(time.monotonic() - start),
        "tokens": steps * batch * length,
    }
    _save(model, tokenizer, out, result | {"seed": seed, "knows": TEACHER.knows})
    return result


def _save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, training: dict[str, float]) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "training.json").write_text(json.dumps(training) + "\n")
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.pretrain_tiny",
        description="Pretrain the tiny Qwen2 base model of the quickstart from the embedded training split, on CPU.",
    )
    parser.add_argument("out", type=command.path_argument, help="folder of the Hugging Face checkpoint to write")
    parser.add_argument("--steps", type=int, default=7_000, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="blocks a step (default: %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="tokens a block (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of documents and initial weights (default: %(default)s)")
    args = parser.parse_args()
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    print(json.dumps(pretrain(args.out, **settings)))


if __name__ == "__main__":
    sys.exit(command.run(main))
