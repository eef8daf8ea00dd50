"""The reward without a verifier, and what reasoning tells, by plain transformers' likelihoods, at TP 2 and PP 2."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from recipes.engines.base import Completion
from recipes.rollout.likelihood import answer_tokens
from tests.engines.conftest import TINY, World
from tests.engines.thoughts import LENGTH, QUESTIONS, scored_groups

pytestmark = pytest.mark.multiprocess


@dataclasses.dataclass(frozen=True)
class Expected:
    """0.9 max(0, r - r0) + 0.1 and the length term of every response; and each one's gain in nats that has the form."""

    rewards: list[list[float | None]]
    gains: list[float]


@pytest.fixture(scope="module")
def expected() -> Expected:
    """By a pass of its own over each text."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32),
        AutoTokenizer.from_pretrained(TINY),
    )

    def logprobs(question: str, thought: str, answer: str) -> torch.Tensor:
        asked, written, right = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (question, thought, answer)
        )
        ids = torch.tensor([[*asked, *written, *right]])
        with torch.no_grad():
            found = torch.log_softmax(model(ids).logits[0].double(), -1)
        first = len(asked) + len(written)
        return torch.stack([found[first + n - 1, token] for n, token in enumerate(right)])

    rewards, gains = list[list[float | None]](), list[float]()
    for question, answer, opened, responses in QUESTIONS:
        begins = "" if opened else "<think>"
        without = logprobs(question + opened, f"{begins}</think><answer>", answer)
        rewards.append([])
        for response, status in responses:
            thought = response.partition("</think>")[0].removeprefix("<think>")
            if len(thought) > 400:
                rewards[-1].append(None)
                continue
            after = logprobs(question + opened, f"{begins}{thought}</think><answer>", answer)
            earned = 0.9 * max(0.0, float(after.exp().mean() - without.exp().mean())) + 0.1 + LENGTH
            rewards[-1].append({"timeout": None, "malformed": LENGTH}.get(status, earned))
            if status != "malformed":
                gains.append(float(after.mean() - without.mean()))
    return Expected(rewards, gains)


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_rewards_are_probabilities_of_the_right_answer(layout: str, expected: Expected, world: World) -> None:
    """A response without the form has its length term alone; what the server could not score stays unscored, as does
    what is too long for the model.
    """
    for rank in world.results(layout):
        found = rank["likelihood"]
        for rewards, wanted in zip(found["rewards"], expected.rewards, strict=True):
            assert rewards == [None if w is None else pytest.approx(w, abs=1e-4) for w in wanted]
        assert found["rewards"][0][2:] == [LENGTH, None, None]
        assert 0 < found["metrics"]["likelihood/without"] < 1
        assert found["gain"]["reasoning/gain"] == pytest.approx(sum(expected.gains) / 5, abs=1e-4)
        assert found["gain"]["reasoning/gaining_share"] == sum(gain > 1e-4 for gain in expected.gains) / 5
    # A reasoning that names the answer makes it likelier.
    assert found["rewards"][1][0] > found["rewards"][1][1]


def test_the_answer_which_the_reward_does_not_look_at_earns_nothing(world: World) -> None:
    """Without the form there is none, and all tokens earn what the response did."""
    for rank in world.results("tp2"):
        for (_, _, _, responses), unread in zip(QUESTIONS, rank["likelihood"]["unread"], strict=True):
            for (response, status), found in zip(responses, unread, strict=True):
                answer = response.partition("<answer>")[2].partition("</answer>")[0]
                assert found == ("" if status == "malformed" else answer)


@pytest.mark.parametrize(
    ("opened", "response", "expected"),
    [
        ("", "<think>t</think><answer>B6</answer>", "B6"),
        ("<think>", "t</think> <answer>\nB6 </answer>", "\nB6 "),
        ("", "<think>t</think><answer></answer>", ""),
        ("", "<think>t</think><answer>β2-Adrenozeptor é</answer> And more of it.", "β2-Adrenozeptor é"),
        ("", "a <think>t</think> b <answer>sodium < 120</answer>", "sodium < 120"),
    ],
)
def test_the_answers_tokens_are_found_in_any_text(opened: str, response: str, expected: str) -> None:
    """The template may have opened the reasoning, and lenient forms have text around the blocks."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    [[made, *_], _] = scored_groups(tokenizer)
    ids = tuple(tokenizer(response, add_special_tokens=False).input_ids)
    made = dataclasses.replace(
        made,
        prompt=dataclasses.replace(made.prompt, opened=opened),
        text=opened + response,
        completion=Completion(ids, (-1.0,) * len(ids), True),
    )
    start, end = answer_tokens(made, tokenizer)
    assert tokenizer.decode(ids[start:end]) == expected


def test_a_token_of_answer_and_tag_is_the_answers() -> None:
    """As in vocabularies that have `>A` or `5</`."""
    pieces = ["<think>t</think><answer", ">A", "b", "c</", "answer>"]
    tokenizer = Tokenizer(WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.decoder = Fuse()
    [[made, *_], _] = scored_groups(AutoTokenizer.from_pretrained(TINY))
    completion = Completion(tuple(range(5)), (-1.0,) * 5, True)
    made = dataclasses.replace(made, text="".join(pieces), completion=completion)
    assert answer_tokens(made, PreTrainedTokenizerFast(tokenizer_object=tokenizer)) == (1, 4)


def test_groups_whose_rewards_differ_too_little_are_left_out(world: World) -> None:
    """Less than the mean deviation, which the first step sets, with a share of 1; another goes on from there."""
    for rank in world.results("tp2"):
        found = rank["likelihood"]
        first, second, resumed = found["keeps"]
        assert first == [True, True]
        assert sorted(second) == [False, True]
        assert resumed == second
        assert found["metrics"]["likelihood/left_out_share"] == 0


def test_the_texts_are_a_fair_trial() -> None:
    groups = scored_groups(AutoTokenizer.from_pretrained(TINY))
    assert [[t.score.reward for t in group] for group in groups] == [[0.0, 0.0, 0.0, None, 0.0], [0.0, 0.0]]
