"""Supervised fine-tuning, the warm start before GRPO or its baseline: `python -m recipes.sft [key=value ...]`.

Takes rows whose `meta.trace` holds {"think", "answer"}, or with data.teach=answer any rows for their labels alone, and
teaches the model to give <think>...</think><answer>...</answer> after the prompt, without `<think>` where the chat
template opens it; the loss is on the response alone. Same engine, configuration and run folder as GRPO; `trainer.batch`
sequences make an optimizer step.

Settings that have no default: output=FOLDER, model.path=MEGATRON_CHECKPOINT. Others often set: data.train=[FILE,...],
trainer.steps, trainer.max_seconds, optimizer.learning_rate.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from recipes.monitor.run_folder import lock_path
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader, run
from recipes.runtime.rules import Stage

if TYPE_CHECKING:
    from recipes.engines.base import TokenSequence
    from recipes.rollout.prompts import Prompt


def train(config: Config) -> None:
    """The whole run on this rank; all ranks call it."""
    # These bring torch and transformers: --help and a mistake in a setting are answered without.
    from recipes.engines import create_engine
    from recipes.engines.base import TokenBatch
    from recipes.monitor.monitor import TrainingMonitor
    from recipes.rl.losses import supervised_loss
    from recipes.rollout.asked import how_asked
    from recipes.rollout.lengths import taught_prompts
    from recipes.rollout.prompts import DataError, make_prompts, prompt_form
    from recipes.rollout.rows import prompt_order, taught, training_rows
    from recipes.runtime.agreement import from_leader
    from recipes.runtime.health import count_skipped
    from recipes.runtime.origin import run_origin
    from recipes.runtime.phases import Phases
    from recipes.runtime.run_folder import RunFolder
    from recipes.runtime.saving import Saving
    from recipes.runtime.schedule import learning_rate, progress
    from recipes.runtime.tokenizer import load_tokenizer

    folder = RunFolder(config.output)
    tokenizer = load_tokenizer(config.model.path)
    examples = taught(training_rows(config.data), config.data.teach)
    if not examples:
        raise DataError(
            f"no row of data.train={config.data.train} has a meta.trace to learn from; data.teach=answer learns labels"
        )
    origin = run_origin(config, Stage.SFT, examples, how_asked(config, Stage.SFT)) if is_leader() else {}
    if is_leader():
        folder.prepare(config, origin)
    prompts, dropped = make_prompts(
        examples, tokenizer, prompt_form(config, teaching=True), max_tokens=config.model.max_length
    )
    prompts = taught_prompts(prompts, config, tokenizer)
    sequences = {p.example.id: response_sequence(p, tokenizer) for p in prompts}
    fitting = [p for p in prompts if len(sequences[p.example.id].ids) <= config.model.max_length]
    if not fitting:
        raise DataError(f"no prompt with its trace fits into model.max_length={config.model.max_length} tokens")
    dropped += len(prompts) - len(fitting)
    order = prompt_order(fitting, config)
    engine = create_engine(config, bare=True)
    saving = Saving(config, engine)
    step, seconds, skipped = 0, 0.0, 0
    if (latest := folder.latest()) is not None:
        state = engine.load(latest)
        step, seconds, skipped = state["step"], state["seconds"], state["skipped"]
        order.restore(state["order"])

    with closing(engine), TrainingMonitor(config, step) as monitor:
        if is_leader() and dropped:
            print(f"{dropped} of {len(examples)} rows are longer than model.max_length and were left out")
        going = saving.goes_on(step, seconds)
        while going:
            step, phases = step + 1, Phases()
            batch = TokenBatch(tuple(sequences[p.example.id] for p in order.next(config.trainer.batch)))
            rate = learning_rate(config.optimizer, progress(config.trainer, step, seconds), step)
            loss = supervised_loss(tokens=batch.response_tokens)
            sums = engine.train_step(batch, loss, learning_rate=rate, reference=False)
            seconds = from_leader(seconds + phases.total)
            skipped = count_skipped(skipped, [[sums]], config.trainer.max_skipped)
            metrics = {
                "policy/loss": sums["loss"] / sums["tokens"],
                "policy/learning_rate": rate,
                "policy/skipped_updates": 1 - sums["stepped"],
            }
            monitor.record(step, metrics, seconds, phases.total)
            own = {"skipped": skipped, "origin": origin}
            going = saving.after_step(step, seconds, own, order.state, monitor.score)


def response_sequence(prompt: Prompt, tokenizer: Any) -> TokenSequence:
    """The prompt with its worked trace and an end token."""
    from recipes.engines.base import TokenSequence
    from recipes.rollout.prompts import trace_ids

    return TokenSequence(ids=prompt.ids + trace_ids(prompt, tokenizer), prompt_length=len(prompt.ids))


if __name__ == "__main__":
    run(train, "recipes.sft", __doc__, Stage.SFT, owns=lambda config: lock_path(config.output))
