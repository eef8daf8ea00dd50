"""NeMo-Aligner's own REINFORCE, from a folder of ours, with rewards of our server: one of the ranks of a torchrun job.

Arguments: a `.nemo` folder of conversion, the reward server's URL, a JSONL file of questions, and a folder for what was
saved and found. NeMo restores the folder that our engine saved after a step, and Aligner's `ReinforceTrainer` trains on
it, with NeMo's own model, data set, sampler and loss. Lightning's part in Aligner's script, which makes process group
and optimizer, is left out: the group is there already, and the optimizer is torch's.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.data.example import read_examples
from recipes.data.prompts import Form
from recipes.data.styles import read_style
from recipes.engines import create_engine
from recipes.engines.base import TokenBatch
from recipes.rl.losses import supervised_loss
from recipes.rollout.prompts import Prompt, make_prompts
from recipes.runtime.config import Config
from recipes.runtime.launch import init_process_group
from recipes.runtime.loading import load
from recipes.runtime.tokenizer import load_tokenizer
from recipes.sft import response_sequence
from reward_server.client import RewardClient

STEPS, QUESTIONS, PROMPTS, COPIES, LIMIT = 2, 8, 4, 2, 60
PROBE = list(range(5, 60))


def _patch_for_cpu() -> None:
    """What only NeMo's own model and sampler need beside `recipes.engines.nemo_aligner.cpu`."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from nemo.collections.nlp.models.language_modeling import megatron_gpt_model
    from nemo.core.classes.modelPT import ModelPT

    ModelPT.cuda = lambda self, *_: self
    for name in ("Float", "Long", "Byte"):
        setattr(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))
    gather = dist.all_gather_into_tensor
    # gloo takes no tensor without dimensions.
    dist.all_gather_into_tensor = lambda out, part, **kwargs: gather(out, torch.atleast_1d(part), **kwargs)
    # The container's version, which NeMo's model reads.
    os.environ["NVIDIA_PYTORCH_VERSION"] = "25.02"
    # It builds Transformer Engine's layers to throw them away.
    megatron_gpt_model.get_specs = lambda *_, **__: get_gpt_layer_local_spec()


def _settings(folder: Path) -> Any:
    """`model` of Aligner's gpt_reinforce_actor.yaml over the folder's own configuration."""
    from nemo_aligner.utils.utils import load_and_override_model_config
    from omegaconf import OmegaConf

    changes = {
        "tensor_model_parallel_size": 2,
        "transformer_engine": False,
        "use_cpu_initialization": True,
        "masked_softmax_fusion": False,
        "apply_rope_fusion": False,
        "micro_batch_size": 1,
        "global_batch_size": PROMPTS * COPIES,
        "data": {"data_impl": "jsonl", "num_workers": 0},
        "optim": {"name": "adamw"},
        "reinforce": {
            "length_params": {"max_length": LIMIT, "min_length": 1},
            "sampling_params": {
                "use_greedy": False,
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "repetition_penalty": 1.0,
                "add_BOS": False,
                "all_probs": False,
                "compute_logprob": False,
                "end_strings": ["<|im_end|>"],
            },
            "offload_adam_states": False,
            "forward_micro_batch_size": 1,
        },
    }
    return load_and_override_model_config(str(folder), OmegaConf.create(changes))


class _Log:
    """Keeps what the trainer reports."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.rows: list[list[Any]] = []

    def log_metrics(self, metrics: dict[str, float], step: int, prefix: str = "") -> None:
        if prefix == "train_rollouts/":
            self.metrics.append(metrics)

    def log_table(self, key: str, dataframe: Any, step: int) -> None:
        self.rows = dataframe.values.tolist()

    def finalize(self) -> None:
        pass


def _taught(config: Config, prompts: list[Prompt], tokenizer: Any, folder: Path) -> list[float]:
    """Teaches our engine the prompts' answers and saves it; the log-probabilities of `PROBE`, on rank 0."""
    sequences = [response_sequence(prompt, tokenizer) for prompt in prompts]
    batch, engine = TokenBatch(tuple(sequences)), create_engine(config)
    for _ in range(60):
        loss = supervised_loss(tokens=batch.response_tokens)
        engine.train_step(batch, loss, learning_rate=2e-3, reference=False)
    engine.save(folder, {"step": 60})
    assert engine.finish_saves(wait=True) == folder
    return log_probabilities(engine.logits(PROBE))


def _logprobs(model: Any) -> list[float]:
    """NeMo's log-probabilities of `PROBE`."""
    model.prepare_for_inference()
    found = model.get_inference_log_probs(torch.tensor([PROBE]))[0].tolist()
    model.finish_inference()
    return found


def log_probabilities(logits: torch.Tensor) -> list[float]:
    """Of each token of `PROBE` but the first."""
    return torch.log_softmax(logits[:-1], -1).gather(-1, torch.tensor(PROBE[1:])[:, None])[:, 0].tolist()


def main(start: str, url: str, questions: str, out: Path) -> None:
    config = load(["experiment=quickstart_grpo", f"model.path={start}", f"output={out}", "engine=nemo_aligner"])
    init_process_group(config)
    tokenizer = load_tokenizer(start)
    form = Form(read_style("plain"))
    prompts, _ = make_prompts(read_examples(questions)[:QUESTIONS], tokenizer, form, max_tokens=160)
    found: dict[str, Any] = {"ours": _taught(config, prompts, tokenizer, out / "saved")}
    _patch_for_cpu()

    from nemo_aligner.algorithms.reinforce import ReinforceTrainer
    from nemo_aligner.data.nlp.builders import build_dataloader, collate_with_pad_to_max_batch
    from nemo_aligner.data.nlp.datasets import RLHFDataset
    from nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor import MegatronGPTReinforceActorModel
    from nemo_aligner.utils.batch_iterators import get_batch_iterator_cls
    from nemo_aligner.utils.distributed import Timer
    from nemo_aligner.utils.train_script_utils import FakeCheckpointCallback, FakeScheduler
    from nemo_aligner.utils.utils import load_from_nemo, retrieve_model_state_dict_in_cpu
    from omegaconf import OmegaConf

    from recipes.engines.nemo_aligner.trainer import make_trainer
    from recipes.engines.nemo_aligner.verifier import RemoteVerifierClient

    values = _settings(out / "saved")
    model = load_from_nemo(
        MegatronGPTReinforceActorModel, values, make_trainer(config), strict=True, restore_path=str(out / "saved")
    )
    found["theirs"] = _logprobs(model)
    model.init_policy_state_dict = retrieve_model_state_dict_in_cpu(model, megatron_amp_O2=False)

    rows = [{"text": tokenizer.decode(prompt.ids)} for prompt in prompts]
    data = RLHFDataset(values, model.tokenizer, "train", "", [0], rows, values.encoder_seq_length, 1)
    rm = RemoteVerifierClient(
        RewardClient(url, total_timeout_s=30),
        {prompt.ids: prompt.example for prompt in prompts},
        partial(tokenizer.decode, skip_special_tokens=True),
    )
    log = _Log()
    whole = OmegaConf.create({"model": values, "trainer": {"reinforce": {"rollout_batch_seq_length": None}}})
    collate = collate_with_pad_to_max_batch(LIMIT, model.tokenizer.eos_id, whole, generate_masks_and_position_ids=False)
    loader = partial(
        build_dataloader, cfg=whole, dataset=data, mbs=PROMPTS, gbs=PROMPTS, collate_fn=collate, load_gbs=False
    )
    settings = {
        "max_epochs": 1,
        "max_steps": STEPS,
        "val_check_interval": 0,
        "save_interval": 0,
        "gradient_clip_val": None,
        "initial_policy_kl_penalty": 0.01,
        "use_absolute_kl": False,
        "num_rollouts_per_prompt": COPIES,
        "rollout_batch_seq_length": None,
        "model_gbs": PROMPTS * COPIES,
        "model_mbs": 1,
    }
    ReinforceTrainer(
        cfg=OmegaConf.create(settings),
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        scheduler=FakeScheduler(),
        train_dataloader_builder=loader,
        val_dataloader_builder=loader,
        collate_fn=collate,
        rm=rm,
        batch_iterator_cls=get_batch_iterator_cls({}),
        logger=log,
        ckpt_callback=FakeCheckpointCallback(),
        run_timer=Timer(None),
    ).fit()
    rm.close()
    found |= {"trained": _logprobs(model), "metrics": log.metrics, "rows": log.rows}
    (out / f"result.{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]))
