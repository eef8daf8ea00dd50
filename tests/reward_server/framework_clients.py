"""The real code of other frameworks asks a reward server; started as a process with their folder on PYTHONPATH.

`framework_clients.py NAME URL` prints a JSON list of the rewards that the framework came by. What is not theirs here:
the tokens, which are scripted instead of sampled, and the packages' __init__ files, which import Ray and DeepSpeed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = str(Path(__file__).resolve().parents[2] / "recipes" / "data" / "tiny_base")
SYSTEM = "Put the reasoning between <think> and </think>, then the answer between <answer> and </answer>."
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Naïve question, ½ dose?\n A. Heparin"}]
LABEL: dict[str, Any] = {"task": "choice", "reference": {"answer": "C", "options": {"A": "Aspirin", "C": "Heparin"}}}
RIGHT, WRONG = (f"<think>It is {letter}.</think><answer>{letter}</answer>" for letter in "CA")


def without_init(name: str) -> ModuleType:
    """A package of theirs whose modules can be imported, without its own __init__."""
    module = ModuleType(name)
    module.__path__ = [str(Path(folder) / name.replace(".", "/")) for folder in sys.path]
    sys.modules[name] = module
    return module


def openrlhf(url: str) -> list[float]:
    """SingleTurnAgentExecutor, with prompts whole, cut on the left, and opening `<think>`."""
    without_init("openrlhf.utils")
    executor = importlib.import_module("openrlhf.utils.agent").SingleTurnAgentExecutor(f"{url}/get_reward")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)

    async def reward(prompt: str, response: str, max_length: int = 512, label: Any = LABEL) -> float:
        tokens = tokenizer(response + "<|im_end|>", add_special_tokens=False)["input_ids"]
        output = SimpleNamespace(token_ids=tokens, text=response, finish_reason="stop", logprobs=None)

        class Engine:
            async def generate(self, *_: Any, **__: Any) -> Any:
                return SimpleNamespace(outputs=[output])

        sampling = SimpleNamespace(max_tokens=64, logprobs=None)
        answer = await executor.execute(prompt, label, sampling, max_length, tokenizer, Engine())
        return float(answer["reward"][0])

    async def all_of_them() -> list[float]:
        opened = prompt + "<think>\n"
        return [
            await reward(prompt, RIGHT),
            await reward(prompt, WRONG, label=json.dumps(LABEL)),
            *[await reward(prompt, RIGHT, max_length=64 + left) for left in (20, 25, 40, 70)],
            await reward(opened, RIGHT.removeprefix("<think>")),
            await reward(opened, WRONG.removeprefix("<think>"), max_length=64 + 40),
            await reward(prompt, "<answer>C</answer>"),
        ]

    return asyncio.run(all_of_them())


def verl(url: str) -> list[float]:
    """The custom reward function as verl loads it, called by its NaiveRewardManager."""
    os.environ["MEDATRON_REWARD_URL"] = url
    import torch
    from omegaconf import OmegaConf

    import reward_server.client.frameworks as helper

    package = without_init("verl")
    package.DataProto = object  # type: ignore[attr-defined]  # a stand-in
    for name in ("utils", "experimental", "experimental.reward_loop", "trainer", "trainer.ppo"):
        without_init(f"verl.{name}")
    without_init("verl.utils.ray_utils").get_event_loop = asyncio.get_event_loop  # type: ignore[attr-defined]  # and here
    managers = without_init("verl.experimental.reward_loop.reward_manager")
    registry = importlib.import_module("verl.experimental.reward_loop.reward_manager.registry")
    managers.register = registry.register  # type: ignore[attr-defined]  # as its __init__ does
    naive = importlib.import_module("verl.experimental.reward_loop.reward_manager.naive").NaiveRewardManager
    function = {"path": helper.__file__, "name": "compute_score"}
    config = OmegaConf.create({"reward": {"custom_reward_function": function}})
    compute_score = importlib.import_module("verl.trainer.ppo.reward").get_custom_reward_fn(config)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    async def reward(response: str, truth: Any) -> float:
        tokens = tokenizer(response + "<|im_end|>", return_tensors="pt", add_special_tokens=False)["input_ids"][0]
        padded = torch.cat([tokens, torch.full((9,), tokenizer.pad_token_id)])
        mask = torch.cat([torch.ones(5 + len(tokens)), torch.zeros(9)]).long()
        other = {"data_source": "medqa", "reward_model": {"ground_truth": truth}, "extra_info": {"index": 0}}
        item = SimpleNamespace(batch={"responses": padded, "attention_mask": mask}, non_tensor_batch=other)

        class Data(list[Any]):
            def __getitem__(self, index: Any) -> Any:
                return self if isinstance(index, slice) else super().__getitem__(index)

        found = await naive(config, tokenizer, compute_score).run_single(Data([item]))
        return float(found["reward_score"])

    async def all_of_them() -> list[float]:
        opened = RIGHT.removeprefix("<think>")
        return [
            await reward(RIGHT, LABEL),
            await reward(WRONG, json.dumps(LABEL)),
            await reward(opened, LABEL),
            await reward(opened, {**LABEL, "format": "lenient"}),
        ]

    return asyncio.run(all_of_them())


def trl(url: str) -> list[float]:
    """One step of GRPOTrainer on each form of prompts; its own log has the mean reward."""
    os.environ["MEDATRON_REWARD_URL"] = url
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from reward_server.client.frameworks import trl_reward

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    means = []
    for prompt, written in ((MESSAGES, (RIGHT, WRONG)), (text + "<think>\n", (RIGHT[7:], "no answer"))):
        tokens = [tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"] for answer in written]

        def rollout(prompts: list[Any], _: Any, tokens: list[list[int]] = tokens) -> dict[str, Any]:
            completions = [tokens[number % 2] for number in range(len(prompts))]
            zeros = [[0.0] * len(ids) for ids in completions]
            return {"prompt_ids": [[1, 2]] * len(prompts), "completion_ids": completions, "logprobs": zeros}

        with tempfile.TemporaryDirectory() as folder:
            # Arrow gives both rows the options of either.
            more = {"answer": "C", "options": {**LABEL["reference"]["options"], "B": "Warfarin"}}
            rows = [{"prompt": prompt, "task": "choice", "reference": one} for one in (LABEL["reference"], more)]
            settings = GRPOConfig(
                folder, num_generations=2, per_device_train_batch_size=4, max_steps=1, use_cpu=True, report_to="none",
                logging_steps=1, save_strategy="no", bf16=False, gradient_checkpointing=False, disable_tqdm=True,
            )  # fmt: skip
            trainer = GRPOTrainer(
                AutoModelForCausalLM.from_pretrained(MODEL), trl_reward, args=settings, processing_class=tokenizer,
                train_dataset=Dataset.from_list(rows), rollout_func=rollout,
            )  # fmt: skip
            trainer.train()
            log = next(entry for entry in trainer.state.log_history if "reward" in entry)
            means.append(float(log["rewards/trl_reward/mean"]))
    return means


if __name__ == "__main__":
    _, name, url = sys.argv
    print("rewards:", json.dumps({"openrlhf": openrlhf, "verl": verl, "trl": trl}[name](url)))
