"""One process of a torchrun job: runs a list of tasks on engines of one layout and writes what each rank found.

Argument: a folder with `job.json`: {"layout": [overrides], "tasks": {name: {"kind", "model", "overrides", ...}}}.
Each rank writes `result.RANK.json`, name -> what the task returned, or {"error": [type, message]}.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from conversion import megatron_cpu
from tests.conftest import children

megatron_cpu.install()

from megatron.core import optimizer, parallel_state  # noqa: E402
from megatron.core.optimizer import distrib_optimizer  # noqa: E402

from conversion.checkpoint import CheckpointError  # noqa: E402
from recipes.engines.base import EngineError, Sampling  # noqa: E402
from recipes.engines.core import vocabulary as vocabulary_module  # noqa: E402
from recipes.engines.core.cache import KVCache  # noqa: E402
from recipes.engines.core.packing import Packing  # noqa: E402
from recipes.engines.core.rotary import RotaryTable  # noqa: E402
from recipes.engines.core.vocabulary import token_logprobs  # noqa: E402
from recipes.engines.megatron.engine import MegatronEngine  # noqa: E402
from recipes.engines.nemo_aligner.cpu import GroupStepAdamW  # noqa: E402
from recipes.rollout.likelihood import Likelihood, reasoning_gain  # noqa: E402
from recipes.runtime.launch import init_process_group  # noqa: E402
from recipes.runtime.loading import load  # noqa: E402
from recipes.runtime.tokenizer import load_tokenizer  # noqa: E402
from tests.engines.ppo_steps import critics, gradient_as_weights, ppo  # noqa: E402
from tests.engines.steps import batch_of, diverge, export_all, sample_all, sample_between, take_steps  # noqa: E402
from tests.engines.thoughts import scored_groups  # noqa: E402

Task = dict[str, Any]


def _engine(layout: list[str], task: Task) -> MegatronEngine:
    overrides = [*layout, *task.get("overrides", [])]
    return MegatronEngine(load(["output=unused", f"model.path={task['model']}", *overrides]))


def train(layout: list[str], task: Task) -> Any:
    """Trains on `batches` from the checkpoint or, with `load`, from a saved one; `save` = {number of steps: folder}."""
    engine = _engine(layout, task)
    state = engine.load(Path(task["load"])) if "load" in task else {}
    found: dict[str, Any] = {"state": state, "before": engine.logprobs(batch_of(task["probe"])), "steps": []}
    saves = {int(steps): Path(folder) for steps, folder in task.get("save", {}).items()}
    for number, values in enumerate(task["batches"], 1):
        found["steps"] += take_steps(engine, [values], task.get("objective", "grpo"))
        if number in saves:
            engine.save(saves[number], {"step": number, "text": "ä", "ratio": 0.1})
            found["logits"] = engine.logits(task["probe"]["sequences"][0]["ids"]).tolist()
    engine.finish_saves(wait=True)
    found["after"] = engine.logprobs(batch_of(task["probe"]))
    if engine.config.algorithm.kl_coef > 0:
        found["reference"] = engine.logprobs(batch_of(task["probe"]), "reference")
        found["after_reference"] = engine.logprobs(batch_of(task["probe"]))
    return found


def gradient(layout: list[str], task: Task) -> Any:
    """Takes one step and saves its gradient in the weights' place, so that it converts to Hugging Face's names."""
    engine = _engine(layout, task)
    found = take_steps(engine, [task["batch"]], task.get("objective", "grpo"))
    gradient_as_weights(engine.model, engine.module)
    engine.save(Path(task["save"]), {})
    engine.finish_saves(wait=True)
    return {"steps": found, "micro-batches": len(engine._divide(batch_of(task["batch"])))}


def settings(layout: list[str], task: Task) -> Any:
    """What would differ on a GPU: the layers' settings, and how long rows are at FP8 settings that no CPU trains at."""
    engine = _engine(layout, task)
    model, parallel = engine.config.model, engine.config.parallel
    parallel.tensor, rows = 8, {}
    for model.fp8, parallel.sequence in (("blockwise", True), ("tensorwise", True), ("blockwise", False)):
        packed = engine._divide(batch_of(task["batches"][0]))
        rows[f"{model.fp8} {parallel.sequence}"] = [row.inputs.shape[1] for row in packed]
    try:
        without_critic = str(engine.values(batch_of(task["batches"][0])))
    except EngineError as error:
        without_critic = str(error)
    delayed = _engine(layout, task)
    delayed._calibrated = False
    with mock.patch.object(delayed, "_gradient", wraps=delayed._gradient) as gradient:
        steps = take_steps(delayed, task["batches"], "grpo")
    return {
        "calibrated": {"passes": gradient.call_count, "steps": steps},
        "without critic": without_critic,
        "tp_only_amax_red": engine.module.config.tp_only_amax_red,
        "rows": rows,
        "transformer engine": ["beside_cuda" in str(sys.path), sys.modules.get("transformer_engine", "not hidden")],
    }


def generate(layout: list[str], task: Task) -> Any:
    """Samples by each of `samplings`; also the trainer's log-probabilities of what was sampled."""
    engine = _engine(layout, task)
    # Were it not off while sampling, the layers would ask for Transformer Engine, which a CPU has not.
    model_config = engine.module.config
    model_config.fp8 = "hybrid"
    found: dict[str, Any] = {"logits": engine.logits(task["prompts"][0]).tolist(), "fp8 after": model_config.fp8}
    model_config.fp8 = None
    found |= sample_all(engine, task)
    if "seldom" in task:
        # Rows that have ended stay for longer, and there is no position beyond the last that a response may have.
        sampler = engine.whole.sampler if engine.config.samples_alone else engine.sampler
        sampler.look_every = 7
        sampler.stage.rotary = RotaryTable(sampler.model.rotary_pos_emb, task["positions"], torch.float32)
        chosen = {name: task["samplings"][name] for name in task["seldom"]}
        found["seldom"] = sample_all(engine, {**task, "samplings": chosen})
        shortest = min(task["prompts"], key=len)
        found["shortest alone"] = engine.generate([shortest], Sampling(1, 0.0, 8, ()))[0][0].ids
    return found


def between(layout: list[str], task: Task) -> Any:
    """Samples around updates, in groups of the task's own."""
    parallel_state.destroy_model_parallel()
    found = sample_between(lambda: _engine(layout, task), task)
    parallel_state.destroy_model_parallel()
    return found


def export(layout: list[str], task: Task) -> Any:
    """The weights handed over at several moments."""
    return export_all(_engine(layout, task), task)


def refused_export(layout: list[str], task: Task) -> Any:
    """What is said of weights that cannot be handed over, for a reason that the last rank alone has."""
    found = {}
    for how in ("unknown", "precision", "kind", "incomplete"):
        engine = _engine(layout, task)
        embedding = engine.module.embedding.word_embeddings
        if how == "incomplete":
            engine.architecture = dataclasses.replace(engine.architecture, vocab_size=200)
        elif dist.get_rank() == dist.get_world_size() - 1:
            if how == "unknown":
                engine.module.embedding.extra = torch.nn.Parameter(torch.zeros(3))
            elif how == "precision":
                embedding.weight.data = embedding.weight.data.double()
            else:
                embedding.weight = torch.nn.Parameter(embedding.weight.data.as_subclass(Quantized))
        try:
            found[how] = str(engine.weights(1, False))
        except EngineError as error:
            found[how] = str(error)
    return found


class Quantized(torch.Tensor):
    """A tensor that says it is of the model's precision and holds something else, as Transformer Engine's do."""


def bfloat16(layout: list[str], task: Task) -> Any:
    """Attention's last output and log-probabilities against float64 on the same rounded inputs.

    Scores and logits are as spread as a trained model's. Outputs differ relatively, log-probabilities at worst in
    nats.
    """
    engine = _engine(layout, task)
    attention, config, tokens = engine.sampler.attentions[0], engine.module.config, 64
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, 1, heads, config.kv_channels) for heads in (config.num_attention_heads, config.num_query_groups)]
    query, key, value = (torch.randn(shapes[n], generator=generator).bfloat16() for n in (0, 1, 1))
    query *= 3
    each = config.num_attention_heads // config.num_query_groups
    q, k, v = (x[:, 0].double().repeat_interleave(n, 1) for x, n in ((query, 1), (key, each), (value, each)))
    shares = torch.softmax(torch.einsum("hd,khd->hk", q[-1], k) * attention.scale, -1)
    expected = torch.einsum("hk,khd->hd", shares, v).flatten()

    still = engine.stage.rotary.at(torch.zeros(1, 1, dtype=torch.long))
    rows = [x.permute(1, 2, 0, 3) for x in (key, value)]
    # A prompt with one response, whose last token is asked for.
    prompt = [x[:, :, : tokens // 2].contiguous() for x in rows]
    number, cache = attention.layer_number, KVCache()
    cache.prompt_keys[number], cache.prompt_values[number] = prompt[0].transpose(-1, -2).contiguous(), prompt[1]
    cache.respond(1, tokens, torch.zeros(1, 1, 1, tokens // 2))
    for n in range(tokens // 2, tokens - 1):
        cache.append(number, *(x[:, :, n] for x in rows))
        cache.length += 1
    cache.rotation = still
    attention.cache = cache
    outputs = {"decode": attention(query[-1:], key[-1:], value[-1:])}
    attention.cache = None
    packing = Packing.of(torch.arange(tokens), [tokens], [], engine.device)
    packing.rotation = still
    outputs["packed"] = attention(query, key, value, packed_seq_params=packing)
    found = {name: float((out[-1, 0].double() - expected).norm() / expected.norm()) for name, out in outputs.items()}

    weight, size = engine.stage.output_weight.detach(), engine.architecture.vocab_size
    hidden = torch.randn(32, weight.shape[1], generator=generator)
    hidden = (hidden * 6 / (hidden @ weight.float().t()).std()).bfloat16()
    logprobs = torch.log_softmax(hidden.double() @ weight[:size].double().t(), -1)
    targets = torch.arange(32) % size
    sampled = torch.log_softmax(engine.sampler._logits(hidden), -1)
    trained, _ = token_logprobs(
        *(hidden, weight, targets), temperature=1.0, valid=size, group=parallel_state.get_tensor_model_parallel_group()
    )
    found["sampler's logprobs"] = float((sampled - logprobs).abs().max())
    found["trainer's logprobs"] = float((trained - logprobs[torch.arange(32), targets]).abs().max())
    return found


def start(layout: list[str], task: Task) -> Any:
    """Only builds the engine, and loads when asked to."""
    engine = _engine(layout, task)
    return engine.load(Path(task["load"])) if "load" in task else {}


def vocabulary(layout: list[str], task: Task) -> Any:
    """token_logprobs on this rank's part of a random output matrix against torch on all of it: worst differences."""
    config = load(["output=unused", "model.path=unused", *layout])
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(config.parallel.tensor, config.parallel.pipeline)
    group = parallel_state.get_tensor_model_parallel_group()
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    whole_chunks, worst = vocabulary_module._CHUNK_ELEMENTS, dict[str, float]()
    for valid, padded in ((96, 96), (99, 112), (50, 112)):
        for temperature, chunk in ((1.0, whole_chunks), (0.7, 4 * padded), (2.0, 1)):
            vocabulary_module._CHUNK_ELEMENTS = chunk
            generator = torch.Generator().manual_seed(valid)

            def draw(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
                return torch.randn(*shape, generator=generator)

            hidden, weight = draw(15, 8), draw(padded, 8) * 2
            hidden[0] *= 50  # far from uniform: a sum without the peak taken off would overflow
            targets = torch.randint(0, valid, (15,), generator=generator)
            targets[:2] = torch.tensor([0, valid - 1])
            logprob_scale, entropy_scale = draw(15), draw(15)
            whole = [hidden.clone().requires_grad_(), weight[:valid].clone().requires_grad_()]
            expected = torch.log_softmax(whole[0] @ whole[1].t() / temperature, -1)
            expected_entropy = -(expected.exp() * expected).sum(-1)
            expected = expected.gather(-1, targets[:, None])[:, 0]
            (expected * logprob_scale + expected_entropy * entropy_scale).sum().backward()
            width = padded // size
            rows = slice(rank * width, (rank + 1) * width)
            own = [hidden.clone().requires_grad_(), weight[rows].clone().requires_grad_()]
            found, entropy = token_logprobs(*own, targets, temperature=temperature, valid=valid, group=group)
            (found * logprob_scale + entropy * entropy_scale).sum().backward()
            assert whole[0].grad is not None and whole[1].grad is not None  # noqa: PT018
            assert own[0].grad is not None and own[1].grad is not None  # noqa: PT018
            dist.all_reduce(own[0].grad, group=group)
            weight_grad = torch.zeros_like(weight)
            weight_grad[:valid] = whole[1].grad
            differences: dict[str, torch.Tensor] = {
                "logprob": (found - expected).abs().max(),
                "entropy": (entropy - expected_entropy).abs().max(),
                "hidden gradient": (own[0].grad - whole[0].grad).abs().max() / whole[0].grad.abs().max(),
                "weight gradient": (own[1].grad - weight_grad[rows]).abs().max() / weight_grad.abs().max(),
            }
            for name, value in differences.items():
                worst[name] = max(worst.get(name, 0.0), float(value.detach()))
    vocabulary_module._CHUNK_ELEMENTS = whole_chunks
    return worst


# --- saves beside the training ----------------------------------------------------------------------------------------

_hold = False


def _hold_at_weights(event: str, arguments: tuple[Any, ...]) -> None:
    """Stops a writer, once, at the moment when it opens its first file of weights."""
    global _hold
    if _hold and event == "open" and str(arguments[0]).endswith(".distcp") and str(arguments[1])[0] == "w":
        _hold = False
        os.kill(os.getpid(), signal.SIGSTOP)


def _save_held(engine: MegatronEngine, folder: Path) -> list[int]:
    """Begins a save whose writer stops at its first file; returns its process, or none where it writes nothing."""
    global _hold
    _hold = True
    engine.save(folder, {"text": "ä"})
    _hold = False
    writers = children(os.getpid())
    while any(_state(pid) not in "TZ" for pid in writers):
        time.sleep(0.01)
    return [pid for pid in writers if _state(pid) == "T"]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _digests(engine: MegatronEngine) -> dict[str, str]:
    """SHA-256 of every parameter, main weight and optimizer state of this rank."""
    tensors = {f"weight {name}": p.data for name, p in engine.module.named_parameters()}
    optimizers = getattr(engine.optimizer, "chained_optimizers", [engine.optimizer])
    for number, inner in enumerate(o.optimizer for o in optimizers):
        parameters = [p for group in inner.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            tensors[f"main {number} {index}"] = parameter.data
            tensors |= {f"{key} {number} {index}": torch.as_tensor(v) for key, v in inner.state[parameter].items()}
    return {
        name: hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
        for name, value in tensors.items()
    }


def poisoned(layout: list[str], task: Task) -> Any:
    """A step whose gradient is not a number, between two that can be taken."""
    engine = _engine(layout, task)
    first, second = task["batches"]
    spoilt = json.loads(json.dumps(second))
    spoilt["sequences"][0]["advantage"] = float("nan")
    found: dict[str, Any] = {"steps": [], "states": []}
    for batch in (first, spoilt, second):
        found["steps"] += take_steps(engine, [batch], "grpo")
        found["states"].append(_digests(engine))
    return found


def diverged(layout: list[str], task: Task) -> Any:
    """What the engine says of values that are not finite."""
    return diverge(_engine(layout, task), task["batches"][0], Path(task["folder"]))


class FusedAdam(GroupStepAdamW):
    """Takes what megatron-core gives to Transformer Engine's or Apex's Adam, and keeps its state as they do."""

    def __init__(self, *, adam_w_mode: bool, **settings: Any) -> None:
        assert adam_w_mode
        super().__init__(**settings)


def fused_adam(layout: list[str], task: Task) -> Any:
    """A save before the first step, and the same steps from it."""
    found: dict[str, Any] = {"steps": [], "after": []}
    with (
        mock.patch.multiple(optimizer, Adam=FusedAdam, USING_PYTORCH_OPTIMIZER=False),
        mock.patch.object(distrib_optimizer, "HAVE_APEX_OR_TE", True),
    ):
        engines, folder = [_engine(layout, task), _engine(layout, task)], Path(task["folder"])
        engines[0].save(folder, {})
        engines[0].finish_saves(wait=True)
        engines[1].load(folder)
        for engine in engines:
            found["steps"].append(take_steps(engine, task["batches"], "grpo"))
            found["after"].append(_digests(engine))
    return found


def snapshot(layout: list[str], task: Task) -> Any:
    """Two steps, a save, and two more before the writers may go on; then the checkpoint in a fresh engine."""
    engine, folder = _engine(layout, task), Path(task["folder"])
    take_steps(engine, task["batches"][:2], "grpo")
    found: dict[str, Any] = {"saved": _digests(engine)}
    held = _save_held(engine, folder)
    take_steps(engine, task["batches"][2:], "grpo")
    found["held"], found["moved"] = len(held), _digests(engine)
    found["early"] = [engine.finish_saves(wait=False) is not None, folder.exists()]
    dist.barrier()
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    found["published"] = str(engine.finish_saves(wait=True))
    found["again"] = engine.finish_saves(wait=True)
    found["children"] = len(children(os.getpid()))
    fresh = _engine(layout, task)
    found["state"] = fresh.load(folder)
    found["loaded"] = _digests(fresh)
    return found


def broken_save(layout: list[str], task: Task) -> Any:
    """A save that goes wrong on the last rank in the way of `how`, and one after it that does not."""
    engine, folder = _engine(layout, task), Path(task["folder"])
    last, how = dist.get_rank() == dist.get_world_size() - 1, task["how"]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if how == "no space":
            if last:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
            engine.save(folder, {})
        elif how == "no folder":
            engine.save(Path(task["model"]) / "manifest.json" / "step", {})
        else:
            held = _save_held(engine, folder)
            if not last or how == "killed":
                for pid in held:
                    os.kill(pid, signal.SIGKILL if last else signal.SIGCONT)
            else:
                # The others must not fail by their own deadline first.
                engine.saves.deadline_s = 2
        while engine.finish_saves(wait=how == "stuck") is None:
            time.sleep(0.05)
        raise AssertionError("the save went well")
    except CheckpointError as error:
        found = {"error": str(error)}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    dist.barrier()
    found |= {"left": [p.name for p in folder.parent.glob(f"{folder.name}*")], "children": len(children(os.getpid()))}
    engine.saves.deadline_s = 60
    engine.save(folder, {"number": 2})
    engine.save(folder.with_name(f"{folder.name}-next"), {"number": 3})
    engine.finish_saves(wait=True)
    return found


def hang(layout: list[str], task: Task) -> Any:
    """Trains on and on beside a save whose writers stand still."""
    engine = _engine(layout, task)
    held = _save_held(engine, Path(task["folder"]))
    Path(task["folder"]).with_name(f"ready.{dist.get_rank()}").write_text(json.dumps([os.getpid(), *held]))
    while True:
        take_steps(engine, task["batches"], "grpo")
        engine.finish_saves(wait=False)


def likelihood(layout: list[str], task: Task) -> Any:
    """Rewards by likelihood, three times, the third by one that goes on where the first was; and reasoning's gain."""
    engine = _engine(layout, task)
    tokenizer = load_tokenizer(task["model"])
    one, other = (Likelihood(engine.config, engine, tokenizer) for _ in range(2))
    first = one.reward(scored_groups(tokenizer))
    other.restore(one.state())
    rewards = [[t.score.reward for t in group] for group in first.groups]
    unread = [[tokenizer.decode(t.completion.ids[slice(*t.unread)]) for t in group] for group in first.groups]
    keeps = [first.keeps, *(each.reward(scored_groups(tokenizer)).keeps for each in (one, other))]
    gain = reasoning_gain(scored_groups(tokenizer), engine, tokenizer, engine.config.model.max_length)
    return {"rewards": rewards, "unread": unread, "metrics": first.metrics, "keeps": keeps, "gain": gain}


TASKS = {
    **{"train": train, "gradient": gradient, "generate": generate, "start": start, "vocabulary": vocabulary},
    **{"bfloat16": bfloat16, "export": export, "refused export": refused_export, "between": between},
    **{"settings": settings, "fused adam": fused_adam},
    "ppo": lambda layout, task: ppo(lambda: _engine(layout, task), task),
    "likelihood": likelihood,
    "critics": lambda layout, task: critics(lambda: _engine(layout, task), task),
    **{"poisoned": poisoned, "diverged": diverged, "snapshot": snapshot, "broken save": broken_save, "hang": hang},
}


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    sys.addaudithook(_hold_at_weights)
    init_process_group(load(["output=unused", "model.path=unused", "parallel.timeout_minutes=1"]))
    results: dict[str, Any] = {}
    for name, task in job["tasks"].items():
        try:
            results[name] = TASKS[task["kind"]](job["layout"], task)
        except Exception as error:
            # Every rank must fail alike, or the next collective call would hang until its deadline.
            if not task.get("may_fail"):
                raise
            results[name] = {"error": [type(error).__name__, str(error)]}
    (folder / f"result.{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
