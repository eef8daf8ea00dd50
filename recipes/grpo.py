"""GRPO and PPO on Megatron, rewards from the reward server: `python -m recipes.grpo [experiment=NAME] [key=value ...]`.

One loop: draw prompts, sample a group of responses to each, score them over HTTP, take each group's rewards as one
another's baseline, or what a critic expects (algorithm=ppo), and take clipped policy gradient steps. The same code runs
one process on a laptop and hundreds under srun. The run's folder (`output`) holds the resolved configuration,
metrics.jsonl, TensorBoard files, rollout samples and checkpoints; started again there, it goes on from the last
checkpoint. SIGUSR1: it saves and exits with 75.

Settings that have no default: output=FOLDER, model.path=MEGATRON_CHECKPOINT. Others often set: data.train=[FILE,...],
algorithm=grpo|dr_grpo|dapo|gspo|cispo|rloo|reinforce_pp|ppo|vapo, reward.url=URL (empty starts a server for the run),
parallel.processes, parallel.tensor, trainer.steps, trainer.save_every.

Left out: reward models; rollouts without a bound to their age (`rollout.ahead`).
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial

from recipes.monitor.run_folder import lock_path
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader, run
from recipes.runtime.rules import Stage


def train(config: Config) -> None:
    """The whole run on this rank; all ranks call it."""
    # These bring torch and transformers: --help and a mistake in a setting are answered without.
    from recipes.engines import create_engine
    from recipes.monitor.monitor import TrainingMonitor
    from recipes.rollout.ahead import Batches
    from recipes.rollout.asked import how_asked
    from recipes.rollout.collect import collect
    from recipes.rollout.lengths import Targets, training_form
    from recipes.rollout.likelihood import Likelihood, definition, reasoning_gain
    from recipes.rollout.metrics import (
        critic_metrics,
        rollout_metrics,
        rollout_records,
        speed_metrics,
        update_metrics,
    )
    from recipes.rollout.prompts import make_prompts
    from recipes.rollout.rows import check_best, prompt_order, training_rows
    from recipes.rollout.scoring import RewardError, check_rows, check_same_reward, reward_definition
    from recipes.rollout.server import reward_client
    from recipes.rollout.training import training_data
    from recipes.rollout.update import update_critic, update_policy
    from recipes.rollout.valued import valued_data
    from recipes.runtime.agreement import from_leader
    from recipes.runtime.health import count_skipped, hacked
    from recipes.runtime.origin import run_origin
    from recipes.runtime.phases import Phases
    from recipes.runtime.run_folder import RunFolder
    from recipes.runtime.saving import Saving
    from recipes.runtime.schedule import learning_rate, progress
    from recipes.runtime.tokenizer import load_tokenizer, stop_ids
    from recipes.sampling.base import RolloutError, create_sampler

    folder = RunFolder(config.output)
    tokenizer = load_tokenizer(config.model.path)
    examples = training_rows(config.data)
    origin = run_origin(config, Stage.GRPO, examples, how_asked(config, Stage.GRPO)) if is_leader() else {}
    if is_leader():
        folder.prepare(config, origin)
    prompts, dropped = make_prompts(
        examples,
        tokenizer,
        training_form(config, tokenizer),
        max_tokens=config.model.max_length - (config.rollout.min_new_tokens or config.rollout.max_new_tokens),
    )
    check_best(prompts, config)
    learn = valued_data if config.algorithm.has_critic else training_data
    alone = config.critic.alone_steps if config.algorithm.has_critic else 0
    order = prompt_order(prompts, config, adaptive=config.rollout.adaptive)
    with ExitStack() as stack:
        client = stack.enter_context(reward_client(config.reward, ranks_wait_s=60 * config.parallel.timeout_minutes))
        # A mistake in it is told before a model is loaded.
        reward = definition(reward_definition(client, config.reward), config)
        check_rows([prompt.example for prompt in prompts], client, config.reward)
        engine = stack.enter_context(closing(create_engine(config)))
        sampler = stack.enter_context(closing(create_sampler(config, engine, [prompt.ids for prompt in prompts])))
        batches = Batches(prompts, order, sampler, config, stop_ids(tokenizer), Targets(config, tokenizer))
        likelihood = Likelihood(config, engine, tokenizer) if config.reward.likelihood else None
        saving = Saving(config, engine)
        step, seconds, skipped = 0, 0.0, 0
        if (latest := folder.latest()) is not None:
            state = engine.load(latest)
            step, seconds, skipped = state["step"], state["seconds"], state["skipped"]
            batches.restore(state["order"])
            check_same_reward(state["reward"], reward, config.reward)
            if likelihood:
                likelihood.restore(state["likelihood"])
        monitor = stack.enter_context(TrainingMonitor(config, step))
        if is_leader() and dropped:
            print(f"{dropped} of {len(examples)} prompts are longer than the context allows and were left out")
        going = saving.goes_on(step, seconds)
        while going:
            step, phases = step + 1, Phases()
            try:
                rollout = collect(
                    batches,
                    step,
                    tokenizer=tokenizer,
                    client=client,
                    config=config,
                    phases=phases,
                    likelihood=likelihood,
                )
            except (RewardError, RolloutError):  # on every rank
                saving.finish()
                raise
            gain = dict[str, float]()
            if config.monitor.gain_every and (step == 1 or step % config.monitor.gain_every == 0):
                with phases("score"):
                    gain = reasoning_gain(rollout.sampled, engine, tokenizer, config.model.max_length)
            done = progress(config.trainer, step, seconds)
            # A warm-up is of the first steps that a model takes.
            rate = learning_rate(config.optimizer, done, max(0, step - alone))
            critic_rate = learning_rate(config.critic.optimizer, done, step)
            with phases("train"):
                data = learn(rollout.groups, engine, config.algorithm, config.rollout.temperature)
                fits = update_critic(engine, config, data.critic, critic_rate)
                # A critic that could take no step is none to go by.
                moves = step > alone and (not fits or any(fit["stepped"] for fit in fits))
                updates = update_policy(engine, config, data.groups, rate) if moves else []
            seconds = from_leader(seconds + phases.total)
            skipped = count_skipped(skipped, (updates, fits), config.trainer.max_skipped)
            monitor.record(
                step,
                {
                    **rollout_metrics(rollout, data.teaches),
                    **update_metrics(updates, rate),
                    **critic_metrics(fits, critic_rate),
                    **rollout.metrics,
                    **gain,
                    **data.metrics,
                    **speed_metrics(rollout, data.groups, phases.seconds),
                },
                seconds,
                phases.total,
                samples=partial(rollout_records, rollout.sampled, step),
            )
            if config.monitor.stop_on_hacking and from_leader(monitor.hacking):
                saving.finish()
                raise hacked(step)
            own = {"skipped": skipped, "reward": reward, "origin": origin}
            if likelihood:
                own["likelihood"] = likelihood.state()
            going = saving.after_step(step, seconds, own, partial(batches.state, step), monitor.score)


if __name__ == "__main__":
    run(train, "recipes.grpo", __doc__, Stage.GRPO, owns=lambda config: lock_path(config.output))
