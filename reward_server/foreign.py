"""What other frameworks send, made into what this server takes: where a response begins and ends, and plain labels.

OpenRLHF sends prompt and response as one text, decoded from the token ids with every special token left in; slime's
responses keep the token that ended them. A prompt is compared with the beginning of that text without regard to
whitespace (tokenizers add and drop it) and to begin-of-text and padding tokens, and its beginning may be missing, where
it was cut on the left to fit. What follows the prompt is the response, so that tags in a prompt are never a response's.

Left out: special tokens in the middle of a response, which are a part of it, and every guess: where a response begins
at no place or at more than one, ResponseNotFound says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# Tokens that end a response or fill a batch up. Each alternative with an example:
_END = re.compile(
    r"""<[|｜][a-z_▁]*(?:end|eo[stmd]|pad)[a-z_▁]*[|｜]>   # <|im_end|> <|eot_id|> <｜end▁of▁sentence｜>
    | <\|(?:return|call|user|observation)\|>              # gpt-oss and GLM end a turn with these
    | <\|(?:reserved_special_token|extra)_\d+\|>          # Llama 3 and Qwen pad with these
    | </s> | <eos> | <pad> | <unk>                        # Llama 2, Mistral, Gemma, T5
    | <end_of_(?:turn|utterance)> | <turn\|>              # Gemma, SmolVLM, Gemma 4
    | \[(?:PAD|EOS|EOT|SEP|\|endofturn\|)\]               # BERT's family, EXAONE
    | <seed:(?:eos|pad)> | <(?:unused|SPECIAL_|extra_id_|reserved_)\d+> | \[UNUSED_TOKEN_\d+\]""",
    re.VERBOSE | re.IGNORECASE,
)
# Tokens that begin a text: <s> <bos> [CLS] [gMASK]<sop> <|begin_of_text|> <|startoftext|> <｜begin▁of▁sentence｜>.
_BEGIN = r"<s>|<bos>|\[CLS\]|\[gMASK\]|<sop>|<[|｜](?:begin|bos|startoftext)[a-z_▁]*[|｜]>"
# U+FFFD is what is left of a character whose first bytes were cut off.
_FRONT = re.compile(rf"(?:\s|\ufffd|{_BEGIN}|{_END.pattern})*", re.VERBOSE | re.IGNORECASE)
_END_CHARS = 64

# What chat templates put between the last message and the response, without whitespace.
_GENERATION = re.compile(
    r"""<\|im_end\|><\|im_start\|>assistant                            # ChatML, Qwen
    | <\|eot_id\|><\|start_header_id\|>assistant<\|end_header_id\|>    # Llama 3
    | <\|eot\|><\|header_start\|>assistant<\|header_end\|>             # Llama 4
    | \[/INST\]                                                        # Llama 2, Mistral
    | <end_of_turn><start_of_turn>model                                # Gemma
    | <turn\|><\|turn>model                                            # Gemma 4
    | <｜Assistant｜>                                                   # DeepSeek
    | (?:<\|end\|>|<\|endoftext\|>|</s>)?<\|assistant\|>               # Phi, Tulu, Zephyr, GLM
    | <\|END_OF_TURN_TOKEN\|><\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>  # Command R
    | <\|end_of_text\|><\|start_of_role\|>assistant<\|end_of_role\|>   # Granite
    | <\|im_end\|><\|im_assistant\|>assistant<\|im_middle\|>           # Kimi
    | (?:Assistant|ASSISTANT):                                         # DeepSeek-R1-Zero's and Vicuna's plain text""",
    re.VERBOSE,
)
# A label's own fields are three levels: the label, its reference, that one's options.
DEEPEST = 32
# So much of a prompt's end, whitespace aside, shows that a text begins with a prompt that was cut on the left.
_SURE_CHARS = 16


class ResponseNotFound(ValueError):  # noqa: N818  # the state is the name
    """Where the response begins cannot be told; the message says why and what to send, and repeats no text."""


def response_in(query: str, prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The response in `query`, a prompt with its response behind it and special tokens left in.

    Args:
        query: the text.
        prompt: as the model was given it, or its messages.

    Returns:
        The response without the tokens that end it. Where the prompt ends with `<think>`, so that the response begins
        inside of thinking, with that tag before it.

    Raises:
        ResponseNotFound: the response begins at no place, or at several.
    """
    if isinstance(prompt, str):
        return response_to(prompt, _behind_text(query, prompt))
    return without_end(_behind_messages(query, prompt))


def response_to(prompt: object, response: str) -> str:
    """A response as it is graded: without its end tokens, and with the `<think>` that its prompt (a text) ends with."""
    opened = isinstance(prompt, str) and prompt.rstrip().endswith("<think>")
    return ("<think>" if opened else "") + without_end(response)


def without_end(response: str) -> str:
    """The response without the end-of-turn, end-of-text and padding tokens behind it."""
    end, found = len(response), False
    while True:
        while end and response[end - 1].isspace():
            end -= 1
        start = max(response.rfind(first, max(0, end - _END_CHARS), end) for first in "<[")
        if start < 0 or not _END.fullmatch(response, start, end):
            return response[:end] if found else response
        end, found = start, True


def without_nulls(value: Any, deepest: int = DEEPEST) -> Any:
    """A label without its null fields, and numpy's arrays and scalars as Python's own.

    Arrow gives every row of a column the same keys, the absent ones as null; pandas reads its lists as arrays.
    ValueError for what is nested more than `deepest` levels, which no label is: interpreters differ in what they bear.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Mapping | list):
        return value
    if not deepest:
        raise ValueError("nested too deeply")
    if isinstance(value, Mapping):
        return {key: without_nulls(part, deepest - 1) for key, part in value.items() if part is not None}
    return [without_nulls(part, deepest - 1) for part in value]


def _behind_text(query: str, prompt: str) -> str:
    asked, given = _without_front(prompt), _without_front(query)
    if not asked:
        raise ResponseNotFound("the prompt is empty; the response is what stands behind the prompt, so send both")
    if given.startswith(asked):
        return given[len(asked) :]
    # Some tokenizers compose characters: e and an accent become one.
    composed = (unicodedata.normalize("NFC", given), unicodedata.normalize("NFC", asked))
    for text, start in ((given, asked), composed):
        if length := _beginning(_squeezed(text), _squeezed(start)):
            return text[_position(text, length) :]
    raise ResponseNotFound(
        "it begins neither with its prompt nor with the end of one that was cut on the left, so where the response "
        "begins cannot be told; send the prompt as the model was given it, with the response behind it"
    )


def _beginning(given: str, asked: str) -> int:
    """How much of `given` is the prompt: all of `asked` or the end of it; 0 for neither. Both without whitespace."""
    if given.startswith(asked):
        return len(asked)
    head, lengths, at = given[:_SURE_CHARS], [], -1
    while len(head) == _SURE_CHARS and (at := asked.find(head, at + 1)) >= 0:
        if given.startswith(asked[at:]):
            lengths.append(len(asked) - at)
    if len(lengths) > 1:
        raise ResponseNotFound(
            "its prompt was cut on the left at a place that occurs in it more than once, so where the response begins "
            "cannot be told; allow longer prompts"
        )
    return sum(lengths)


def _behind_messages(query: str, messages: Sequence[Mapping[str, Any]]) -> str:
    if messages[-1]["role"] == "assistant":
        raise ResponseNotFound("its messages end with one of the assistant; send the prompt as a text")
    given, at, parts = _squeezed(query), 0, [part for message in messages if (part := _squeezed(content_of(message)))]
    if not parts:
        raise ResponseNotFound("its messages are empty; send the prompt as a text")
    for part in parts[:-1]:
        at = given.find(part, at) + len(part) if at >= 0 and part in given[at:] else -1
    generation = None
    while at >= 0 and generation is None and (at := given.find(parts[-1], at)) >= 0:
        at += len(parts[-1])
        generation = _GENERATION.match(given, at)
    if generation is None:
        raise ResponseNotFound(
            "its messages, with the beginning of a turn of the assistant behind them, are not in it, so where the "
            "response begins cannot be told; send the prompt as the text that the model was given"
        )
    response = query[_position(query, generation.end()) :]
    if _squeezed(response[:200]).startswith("<think></think><think>"):
        raise ResponseNotFound(
            "it begins with an empty block of thinking, which a chat template or the response may have written; send "
            "the prompt as the text that the model was given"
        )
    return response


def content_of(message: Mapping[str, Any]) -> str:
    """The text of a chat message whose content is a text, a list of parts, or nothing.

    Raises:
        ResponseNotFound: the content is something else.
    """
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str | None):
        raise ResponseNotFound("the content of a message is a text, or a list of parts with texts")
    return content or ""


def _without_front(text: str) -> str:
    front = _FRONT.match(text)
    return text[front.end() :] if front else text


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _position(text: str, count: int) -> int:
    """The place in `text` behind its first `count` characters that are no whitespace."""
    for word in re.finditer(r"\S+", text):
        count -= word.end() - word.start()
        if count <= 0:
            return word.end() + count
    return len(text)
