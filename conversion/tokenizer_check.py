"""A model's tokenizer, opened and proven before anything is converted or trained.

transformers makes a tokenizer of whatever files there are. Without tokenizer.json, as in a cache that was pruned, it
makes one of the special tokens alone, which reads every text as nothing and says nothing about it. So a tokenizer is
opened when its files are whole, its ids are rows of the embedding, plain text comes back from it, a token ends a
response, and its chat template, if there is one, passes on what the user says.

Left out: tokenizers that are code of their own (`trust_remote_code`). What depends on data, style and the form of a
response is looked at where these are known, in `recipes`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion.errors import TokenizerError

# What every language model can read and write, in one line: templates may trim what they are given.
_PROBE = "A 45-year-old woman has had 38.5 C for 3 days; (A) rest, (B) 5 mg/kg of X?"
# transformers 5's name for a tokenizer that its file alone describes.
_V5_CLASS = "TokenizersBackend"
_SUFFIXES = (".json", ".jinja", ".model", ".txt")
_LFS = b"version https://git-lfs"


def open_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The tokenizer of a Hugging Face folder, from its own files and no hub.

    One without `eos_token` gets the first end token of generation_config.json.

    Args:
        folder: with tokenizer files beside config.json.
        vocabulary: rows of the embedding, without padding.

    Raises:
        TokenizerError: naming the folder, what is wrong with its tokenizer or chat template, and the fix.
    """
    _check_files(folder)
    tokenizer = read_tokenizer(folder)
    _check_ids(folder, tokenizer, vocabulary)
    [back] = decode(tokenizer, encode(tokenizer, [_PROBE]))
    if not same_text(back, _PROBE):
        raise TokenizerError(
            f"{folder}: its tokenizer, a {type(tokenizer).__name__}, makes {back!r} of {_PROBE!r}; tokenizer.json is "
            "damaged or of another model or class, download the tokenizer files again"
        )
    ends = [end for end in end_ids(folder) if 0 <= end < vocabulary]
    if tokenizer.eos_token_id is None:
        if not ends:
            raise TokenizerError(
                f"{folder}: no token ends a response; set eos_token in tokenizer_config.json to what ends a turn"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.chat_template and _PROBE not in render(tokenizer, [{"role": "user", "content": _PROBE}]):
        raise TokenizerError(
            f"{folder}: its chat template leaves out what a message of role 'user' says; mend chat_template.jinja (or "
            "chat_template in tokenizer_config.json), or copy that of the published model"
        )
    return tokenizer


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer as transformers loads it, unproven; decoding leaves spaces as the tokens have them.

    Raises:
        TokenizerError: transformers cannot load it.
    """
    from transformers import AutoTokenizer
    from transformers import __version__ as version

    settings = _read_json(folder / "tokenizer_config.json")
    try:
        if settings.get("tokenizer_class") == _V5_CLASS and int(version.split(".")[0]) < 5:
            return _read_v5(folder, settings)
        # Given as False, since without an answer transformers asks for one at the terminal; and whether some package
        # for Mistral's own format is installed must not decide which tokenizer it is.
        return AutoTokenizer.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            clean_up_tokenization_spaces=False,
            mistral_format=False,
        )
    except Exception as error:  # transformers and tokenizers raise nearly anything for files that they cannot read
        raise TokenizerError(
            f"{folder}: transformers cannot load its tokenizer ({_one_line(error)}); download the tokenizer files "
            "again, or load it where that works and write it as tokenizer.json with save_pretrained"
        ) from error


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The text of a conversation up to where the assistant's turn begins.

    Raises:
        TokenizerError: the chat template fails, or refuses these messages.
    """
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program: it may fail with anything
        roles = ", ".join(message["role"] for message in messages)
        raise TokenizerError(
            f"{tokenizer.name_or_path}: its chat template fails for the roles {roles} ({_one_line(error)}); "
            "mend chat_template.jinja (or chat_template in tokenizer_config.json), or copy that of the published model"
        ) from error
    return text


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, with no token put before or after it."""
    # Quiet about lengths: how long a text may be is the model's matter, and tokenizers often know another number.
    return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []


def decode(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row of token ids, special tokens spelled out."""
    # transformers 5 takes no rows for one empty row.
    return tokenizer.batch_decode(ids) if ids else []


def plain(text: str) -> str:
    """The text in one Unicode form, without marks that nobody sees, and with one space for any other.

    Tokenizers of published models compose characters (Qwen) or begin every text with a space (Llama 2).
    """
    visible = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return " ".join(visible.split())


def same_text(a: str, b: str) -> bool:
    """Whether two texts differ in nothing but what tokenizers may change, see `plain`."""
    return a == b or plain(a) == plain(b)


def end_ids(folder: Path) -> tuple[int, ...]:
    """Tokens that end a response by generation_config.json, or by config.json where there is none; ascending.

    Raises:
        TokenizerError: `eos_token_id` is neither an id nor a list of them.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        path = folder / "config.json"
    ends = _read_json(path).get("eos_token_id")
    found = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(end) is int for end in found):
        raise TokenizerError(f"{path}: eos_token_id is {ends!r}; expected a token id or a list of them")
    return tuple(sorted(set(found)))


def _check_files(folder: Path) -> None:
    """A tokenizer file that is a link to nothing or Git LFS's stand-in, and a vocabulary that is missing, by name."""
    files = [f for f in sorted(folder.iterdir()) if f.name.endswith(_SUFFIXES) and not f.name.endswith(".index.json")]
    for file in files:
        if not file.exists():
            raise TokenizerError(f"{file}: a link to a file that is gone ({file.readlink()}); download the model again")
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_LFS):
            raise TokenizerError(f"{file}: Git LFS's stand-in for the file; run `git lfs pull` in the folder")
    names = {file.name for file in files}
    if "tokenizer.json" in names or "tokenizer.model" in names or {"vocab.json", "merges.txt"} <= names:
        return
    beside = "; tekken.json is Mistral's own format" if "tekken.json" in names else ""
    raise TokenizerError(
        f"{folder}: tokenizer.json is missing{beside}; download tokenizer.json and tokenizer_config.json of the model, "
        "or write them with transformers' save_pretrained"
    )


def _check_ids(folder: Path, tokenizer: Any, vocabulary: int) -> None:
    ids = tokenizer.get_vocab()
    past = {token: i for token, i in ids.items() if i >= vocabulary}
    if past:
        token = min(past, key=lambda each: past[each])
        raise TokenizerError(
            f"{folder}: token {token!r} has id {past[token]}, past the {vocabulary} rows of the embedding ({len(past)} "
            "such tokens); take them out of tokenizer.json and tokenizer_config.json, or give the model rows for them "
            f"(model.resize_token_embeddings({max(past.values()) + 1}) in transformers)"
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: not valid JSON ({error}); download the file again") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path}: expected a JSON object; download the file again")
    return values


def _read_v5(folder: Path, settings: Mapping[str, Any]) -> Any:
    """A tokenizer that transformers 5 wrote, for the transformers 4 of NeMo's environment, which has not its class."""
    from transformers import PreTrainedTokenizerFast

    special = {
        name: settings[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if name in settings
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False, **special
    )
    template = folder / "chat_template.jinja"
    if template.is_file():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:297] + "..."
