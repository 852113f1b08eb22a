"""Finds the tokens that end a turn, in the files of a tokenizer and in its chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_logits_processor.alignment.chat_template import ChatTemplate, ConversationError, stand_in
from vllm_logits_processor.alignment.spelling import TokenizerError

_TEMPLATE = "the chat template"
_TOKENIZER = "the tokenizer's eos_token"
_GENERATION = "generation_config.json"
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class EndOfTurn:
    """The tokens that end a turn or a text.

    Attributes
    ----------
    ids : frozenset of int
        All tokens that a source names and that stand for no text.
    spelled : tuple of str
        The spellings of these tokens, in the order of their ids.
    doubt : str or None
        One sentence to log at the start if the sources disagree or name what cannot be an end.
    """

    ids: frozenset[int]
    spelled: tuple[str, ...]
    doubt: str | None


def end_of_turn(
    tokenizer: Any, folder: str, *, name: str, template: ChatTemplate | None
) -> EndOfTurn:
    """Return the ends of turn of a model.

    A model ends its answer with the token that its chat template puts there, even against the
    files: many folders lack ``generation_config.json``, or have that of the original model. So all
    sources count: the template, ``eos_token``, ``generation_config.json`` and ``config.json``.

    Parameters
    ----------
    folder : str
        The folder or hub id of the tokenizer.
    name : str
        The name for messages.
    template : ChatTemplate or None
        Its chat template; None for a base model, which ends with its EOS token.

    Raises
    ------
    TokenizerError
        A configuration file is not a JSON object.
    """
    added = {
        token: each.content
        for token, each in tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
    }
    # Tokenizers of the BERT family name it differently.
    eos = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    config = _read(folder, _CONFIG)
    nested = config.get("text_config")
    said = {
        _TEMPLATE: _ids(_behind_answer(template, added, bos=tokenizer.bos_token_id, eos=eos)),
        _TOKENIZER: _ids(eos),
        _GENERATION: _ids(_read(folder, _GENERATION).get("eos_token_id")),
        _CONFIG: _ids(config.get("eos_token_id"))
        or _ids(nested.get("eos_token_id") if isinstance(nested, Mapping) else None),
    }
    # A token of ordinary text cannot be an end: every answer would stop at it.
    usable = added.keys() | said[_TOKENIZER]
    ids = frozenset().union(*said.values()) & usable
    return EndOfTurn(
        ids=ids,
        spelled=tuple(added.get(each, str(each)) for each in sorted(ids)),
        doubt=_doubt(said, usable, added, name=name),
    )


def _read(folder: str, file: str) -> Mapping[str, Any]:
    """Return the content of a JSON file of a model's folder or repository; empty if it is absent.

    If a repository cannot be reached, only the cache counts: the tokenizer was loaded before, and
    a missing file is not an error.
    """
    from transformers.utils.hub import cached_file

    found = cached_file(
        folder,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return {}
    try:
        values = json.loads(Path(found).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file} of {folder!r} cannot be read as JSON: {error}.") from None
    if not isinstance(values, dict):
        raise TokenizerError(f"{file} of {folder!r} holds no JSON object.")
    return values


def _ids(value: object) -> frozenset[int]:
    """Return the token ids of a value that is one id, a list of ids, or None."""
    each = value if isinstance(value, list | tuple) else [value]
    return frozenset(token for token in each if type(token) is int)


def _behind_answer(
    template: ChatTemplate | None, added: Mapping[int, str], *, bos: int | None, eos: int | None
) -> int | None:
    """Return the token that the template puts right after an assistant's answer.

    The last answer of a conversation comes first: some templates end only that one as the model
    does. Others put nothing there, and the next turn's first token ends the answer.
    """
    if template is None or not added:
        return None
    by_text = {text: token for token, text in added.items()}
    pattern = re.compile("|".join(map(re.escape, sorted(by_text, key=len, reverse=True))))
    for roles in (("user", "assistant"), ("user", "assistant", "user")):
        try:
            text = template.rendered(roles, answer=False)
        except ConversationError:
            continue
        found = pattern.match(text.partition(stand_in(1))[2].lstrip())
        token = by_text[found[0]] if found else None
        if token is not None and (token != bos or token == eos):
            return token
    return None


def _doubt(
    said: Mapping[str, frozenset[int]],
    usable: Iterable[int],
    added: Mapping[int, str],
    *,
    name: str,
) -> str | None:
    """Return where the sources disagree; base and end-of-turn tokens together are usual."""
    stops = said[_GENERATION] or said[_CONFIG] | said[_TOKENIZER]
    expected = said[_TEMPLATE] or said[_TOKENIZER]
    wrong = frozenset().union(*said.values()) - frozenset(usable)
    if not wrong and (expected <= stops or not stops):
        return None

    def spelled(ids: frozenset[int]) -> str:
        return ", ".join(f"{added.get(each, 'no special token')} ({each})" for each in sorted(ids))

    sources = "; ".join(f"{source} names {spelled(ids)}" for source, ids in said.items() if ids)
    left_out = f", save {', '.join(map(str, sorted(wrong)))}" if wrong else ""
    return f"What ends a turn of {name!r} is said in several ways: {sources}. All count{left_out}."
