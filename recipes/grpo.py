"""GRPO on Megatron with rewards from the reward server: `python -m recipes.grpo [experiment=NAME] [key=value ...]`.

One loop: draw prompts, sample a group of responses to each, score them over HTTP, take each group's rewards as one
another's baseline, and take a clipped policy gradient step. The same code runs one process on a laptop and hundreds
under srun. The run's folder (`output`) holds the resolved configuration, metrics.jsonl, TensorBoard files, rollout
samples and checkpoints; started again with the same folder, the run goes on from the last checkpoint.

Settings that have no default: output=FOLDER, model.path=MEGATRON_CHECKPOINT. Others often set: data.train=[FILE,...],
reward.url=URL (empty starts a server for the run), parallel.processes, parallel.tensor, trainer.steps.

Left out: a learned critic and reward models; rollouts older than the policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from recipes.data.example import read_examples
from recipes.engines import create_engine
from recipes.engines.base import PolicyEngine, Sampling, TokenBatch
from recipes.monitor.loggers import MetricsLogger
from recipes.monitor.progress import TrainingProgress
from recipes.monitor.rollouts import write_rollouts
from recipes.rl.losses import Objective, policy_loss
from recipes.rollout.metrics import rollout_metrics, rollout_records, update_metrics
from recipes.rollout.prompts import PromptOrder, make_prompts
from recipes.rollout.scoring import check_same_reward, reward_definition, score, training_sequences
from recipes.rollout.server import reward_client
from recipes.runtime.config import AlgorithmConfig, Config
from recipes.runtime.launch import from_leader, is_leader, run
from recipes.runtime.run_folder import RunFolder
from recipes.runtime.schedule import learning_rate
from recipes.runtime.tokenizer import load_tokenizer, stop_ids


def train(config: Config) -> None:
    """The whole run on this rank; all ranks call it."""
    folder = RunFolder(config.output)
    if is_leader():
        folder.prepare(config)
    tokenizer = load_tokenizer(config.model.path)
    examples = [example for path in config.data.train for example in read_examples(path)]
    prompts, dropped = make_prompts(
        examples,
        tokenizer,
        style=config.data.style,
        length_target=config.reward.length_target,
        max_tokens=config.model.max_length - config.rollout.max_new_tokens,
    )
    order = PromptOrder(prompts, mix=config.data.mix, adaptive=config.rollout.adaptive, seed=config.seed)
    engine = create_engine(config)
    step, seconds, saved_reward = 0, 0.0, None
    if (latest := folder.latest()) is not None:
        state = engine.load(latest)
        step, seconds, saved_reward = state["step"], state["seconds"], state["reward"]
        order.restore(state["order"])

    with reward_client(config.reward) as client, _monitor(config, step) as (logger, progress):
        if logger and dropped:
            print(f"{dropped} of {len(examples)} prompts are longer than the context allows and were left out")
        reward = reward_definition(client, config.reward)
        check_same_reward(saved_reward, reward, config.reward)
        while not _finished(config, step, seconds):
            step, began = step + 1, time.monotonic()
            asked = order.next(config.rollout.prompts)
            completions = engine.generate([p.ids for p in asked], _sampling(config, step, stop_ids(tokenizer)))
            sampled = time.monotonic()
            groups = score(asked, completions, tokenizer=tokenizer, client=client, config=config.reward)
            scored = time.monotonic()
            sequences, teaches = training_sequences(groups, estimator=config.algorithm.advantage)
            order.observe(asked, teaches)
            rate = learning_rate(config.optimizer, _progress(config, step, seconds), step)
            updates = _update(engine, config, sequences, rate)
            trained = time.monotonic()
            seconds = from_leader(seconds + trained - began)

            if logger and progress:
                metrics = {
                    **rollout_metrics(groups, teaches),
                    **update_metrics(updates, rate),
                    "time/generate_s": sampled - began,
                    "time/score_s": scored - sampled,
                    "time/train_s": trained - scored,
                }
                logger.log(step, metrics, seconds)
                progress.update(step, metrics, trained - began)
                if config.rollout.samples_every and (step == 1 or step % config.rollout.samples_every == 0):
                    write_rollouts(config.output, step, rollout_records(groups, step))
            every = config.trainer.save_every
            if _finished(config, step, seconds) or (every and step % every == 0):
                state = {"step": step, "seconds": seconds, "order": order.state(), "reward": reward}
                engine.save(folder.step_path(step), state)
                if is_leader():
                    folder.prune(config.trainer.keep)


def _sampling(config: Config, step: int, stops: tuple[int, ...]) -> Sampling:
    rollout = config.rollout
    # Prompts of different steps share numbers, so the step is part of the seed.
    seed = config.seed * 1_000_003 + step
    return Sampling(rollout.group_size, rollout.temperature, rollout.max_new_tokens, stops, seed)


def _finished(config: Config, step: int, seconds: float) -> bool:
    return step >= config.trainer.steps or 0 < config.trainer.max_seconds <= seconds


def _progress(config: Config, step: int, seconds: float) -> float:
    """How much of the run is done, from 0 to 1, by steps or by the clock, whichever is further."""
    by_clock = seconds / config.trainer.max_seconds if config.trainer.max_seconds else 0.0
    return min(1.0, max((step - 1) / config.trainer.steps, by_clock))


def _update(engine: PolicyEngine, config: Config, sequences: list[list], rate: float) -> list[dict[str, float]]:
    """The optimizer steps of one rollout; its groups are dealt out among them."""
    algorithm, results = config.algorithm, []
    for part in range(algorithm.updates):
        chosen = tuple(s for group in sequences[part :: algorithm.updates] for s in group)
        if not chosen:
            continue
        batch = TokenBatch(chosen, config.rollout.temperature)
        loss = policy_loss(_objective(algorithm), tokens=batch.response_tokens, sequences=len(chosen))
        results.append(engine.train_step(batch, loss, learning_rate=rate, reference=algorithm.kl_coef > 0))
    return results


def _objective(algorithm: AlgorithmConfig) -> Objective:
    names = {field.name for field in dataclasses.fields(Objective)}
    return Objective(**{name: value for name, value in dataclasses.asdict(algorithm).items() if name in names})


@contextlib.contextmanager
def _monitor(config: Config, step: int) -> Iterator[tuple[MetricsLogger | None, TrainingProgress | None]]:
    """Metrics and live progress on rank 0, nothing on the others."""
    if not is_leader():
        yield None, None
        return
    with (
        MetricsLogger(config.output) as logger,
        TrainingProgress(config.trainer.steps, config.name, initial_step=step) as progress,
    ):
        logger.truncate_after(step)
        yield logger, progress


if __name__ == "__main__":
    run(train, "recipes.grpo", __doc__)
