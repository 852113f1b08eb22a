"""Finds all text in a request's body, and writes it back with placeholders."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from floe_plugins.gate import Decision, Gate, Message, Verdict

# Fields that hold a conversation; texts in the rest of a body are scanned separately.
_SPOKEN = (
    *("messages", "input", "prompt", "system", "instructions"),
    *("query", "items", "documents", "state"),
)
# Fields in which a server accepts token ids instead of text.
_WORDS_OR_IDS = ("prompt", "input", "query", "items")

# The parts of a conversation that are text, or a frame around text. Any other part counts as
# content that cannot be scanned: servers add new ones.
_TEXT_PARTS = frozenset(
    {
        *("text", "input_text", "output_text", "refusal", "message"),
        *("thinking", "reasoning", "reasoning_text", "summary_text"),
        *("function", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output"),
        *("tool_use", "tool_result", "tool_reference"),
    }
)
# Servers find media by these keys as well, whatever the part's type says.
_MEDIA = frozenset(
    {
        *("image", "images", "image_url", "image_pil", "image_embeds", "input_image"),
        *("audio", "audio_url", "audio_embeds", "input_audio"),
        *("video", "videos", "video_url", "video_embeds", "input_video"),
        *("file", "file_id", "file_data", "file_url", "input_file", "document"),
    }
)
# Text that the server keeps, or that is unreadable without its tokenizer, model or key.
_UNREADABLE_TYPES = _MEDIA | {"item_reference", "redacted_thinking"}
_UNREADABLE_KEYS = (
    *("prompt_embeds", "previous_response_id", "conversation", "multi_modal_data"),
    *("prompt_token_ids", "encrypted_content"),
)
# At the top of a body: token ids, and media with them.
_UNREADABLE_AT_TOP = ("token_ids", "content_parts", "features")
# Fields of a part of a conversation that hold further parts.
_PARTS_WITHIN = ("content", "output", "summary")

# Fields for servers rather than models; a server knows its own models by name.
_OF_THE_SERVER = ("model", "vllm_xargs")

# Identifiers of programs, such as "get_weather", are not personal: keys of this form, and values of
# the keys that hold terms of a protocol.
_IDENTIFIER = re.compile(
    r"(?!.*(?:\d[_-]?){8})[a-zA-Z][a-z]*(?:[A-Z][a-z]*|[_-][a-zA-Z0-9]{1,12}){0,6}|\d{1,7}"
)
_PROTOCOL = ("type", "role", "object", "tool_choice", "effort", "detail", "enum", "required")
_FUNCTION = ("parameters", "arguments", "description")

# What servers and tracers call things by, under the keys that hold that: "call_9fKx2b", a UUID, a
# trace's 16 or 32 hex digits. Anything else under such a key is read, and so is what holds as many
# digits in a row as a card or a telephone number, or none.
_IDS = frozenset(
    {
        *("id", "call_id", "item_id", "request_id", "response_id", "run_id", "thread_id"),
        *("tool_call_id", "tool_use_id", "trace_id", "span_id", "parent_id", "traceparent"),
    }
)
_ID = re.compile(
    r"(?=.*\d)(?!.*(?:\d[_-]?){8})"
    r"(?:(?:call|chatcmpl|cmpl|ctc|fc|item|msg|req|resp|rs|run|srvtoolu|step|thread|toolu|tr|ws)"
    r"[_-](?!AKIA|ASIA|AIza|eyJ|gh[opsur]_|hf_|sk-|xox)[A-Za-z0-9]{4,64}"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?:00-)?[0-9a-f]{32}(?:-[0-9a-f]{16}-[0-9a-f]{2})?|[0-9a-f]{16})"
)
# A provider's seal on the thoughts that it returned, in base64.
_SEAL = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")

# Numbers with fewer digits are not private; JSON sometimes holds cards and telephone numbers as
# numbers.
_LEAST_DIGITS = 5


@dataclass
class BodyTexts:
    """The texts of a body.

    Attributes
    ----------
    messages : list of Message
        Every string of the body, including keys, and long numbers, but not names that belong to a
        protocol or a program. First those of the conversation in their order, with their roles,
        then the others.
    readable : bool
        False if the body holds content that cannot be scanned: token ids, images, references.
    """

    messages: list[Message]
    readable: bool


def texts_of(body: Mapping[str, Any]) -> BodyTexts:
    """Collect the texts of a body.

    Parameters
    ----------
    body : mapping
        A JSON object, as sent to a route of OpenAI's API or a similar one.
    """
    spoken: list[Message] = []
    beside: list[Message] = []
    for key, value in body.items():
        if key in _SPOKEN:
            _converse(value, spoken, beside)
        # Numbers beside the conversation are settings: seeds, limits and temperatures.
        elif key not in _OF_THE_SERVER and type(value) not in (int, float):
            beside.extend(_aside({key: value}, field=key))
    return BodyTexts([*spoken, *beside], _readable(body))


def with_texts(body: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any] | None:
    """Return the body with other texts in place of those of `texts_of`, in the same order.

    Returns
    -------
    dict or None
        None if a key or a number would change, for which there is no placeholder, or if equal texts
        would change differently.
    """
    before = texts_of(body).messages
    replacements: dict[str, str] = {}
    for old, new in zip(before, texts, strict=True):
        # If a value is split over messages, each occurrence of a text may hold another part.
        if old.text != new and replacements.setdefault(old.text, new) != new:
            return None
    replaced: dict[str, Any] = _replaced(body, replacements)
    left = {message.text for message in texts_of(replaced).messages}
    return None if left & replacements.keys() else replaced


async def leaving(
    gate: Gate, body: Mapping[str, Any]
) -> tuple[Verdict | None, Mapping[str, Any] | None]:
    """Let the gate decide about a body, in a thread: the event loop serves others meanwhile.

    Parameters
    ----------
    body : mapping
        As for `texts_of`.

    Returns
    -------
    verdict : Verdict or None
        None if the body cannot be read, or is nested too deeply to be rebuilt.
    leaving : mapping or None
        The part of the body that may leave: all of it, what redaction leaves, or None.
    """
    texts = texts_of(body)
    if not texts.readable:
        return None, None
    verdict = await asyncio.to_thread(gate.decide, texts.messages)
    if verdict.decision is Decision.CLEAR:
        return verdict, body
    if verdict.redacted_messages is None:
        return verdict, None
    try:
        return verdict, with_texts(body, verdict.redacted_messages)
    except RecursionError:
        return None, None


def why_of(verdict: Verdict | None) -> str:
    """Return why a request may leave or not, in one line of printable ASCII without its text.

    Parameters
    ----------
    verdict : Verdict or None
        As from `leaving`.
    """
    why = "the request holds what cannot be read as text" if verdict is None else verdict.why
    # A plugin may give its labels any characters.
    return "".join(each if " " <= each <= "~" else "?" for each in why)


def _converse(value: object, spoken: list[Message], beside: list[Message]) -> None:
    """Collect the texts of a prompt, a list of prompts, or messages."""
    turns = value if isinstance(value, list) else [value]
    for turn in turns:
        if isinstance(turn, Mapping) and ("content" in turn or "role" in turn):
            role = turn.get("role")
            role = role if isinstance(role, str) else "user"
            _contents(turn.get("content"), role, spoken, beside)
            for key, part in turn.items():
                if key != "content":
                    beside.extend(_aside({key: part}, field=key))
        elif isinstance(turn, str):
            spoken.append(Message(turn))
        else:
            beside.extend(_aside(turn))


def _contents(content: object, role: str, spoken: list[Message], beside: list[Message]) -> None:
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            spoken.append(Message(part, role))
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            spoken.append(Message(part["text"], role))
            beside.extend(_aside({key: value for key, value in part.items() if key != "text"}))
        else:
            beside.extend(_aside(part))


def _aside(value: object, *, field: str | None = None) -> list[Message]:
    """Return every text of a JSON value, keys and long numbers too, as messages without a role."""
    return [Message(text, None, field) for text in _strings(value)]


def _strings(value: object) -> Iterator[str]:
    """Yield the strings of a JSON value in their order, without recursion."""
    waiting: list[tuple[object, re.Pattern[str] | None]] = [(value, None)]
    while waiting:
        each, protocol = waiting.pop()
        if isinstance(each, str):
            if protocol is None or not protocol.fullmatch(each):
                yield each
        elif isinstance(each, Mapping):
            for key, inner in reversed([*each.items()]):
                waiting.append((inner, _form_of(key, each)))
                waiting.append((key, _IDENTIFIER))
        elif isinstance(each, list):
            waiting.extend((inner, protocol) for inner in reversed(each))
        elif type(each) in (int, float) and len(str(each)) >= _LEAST_DIGITS:
            yield str(each)


def _form_of(key: str, within: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return the form of a value of a key that is no user's text, or None."""
    if key in _PROTOCOL or (key == "name" and any(other in within for other in _FUNCTION)):
        return _IDENTIFIER
    if key in _IDS:
        return _ID
    return _SEAL if key == "signature" and "thinking" in within else None


def _readable(body: Mapping[str, Any]) -> bool:
    if any(body.get(key) for key in (*_UNREADABLE_KEYS, *_UNREADABLE_AT_TOP, *_MEDIA)):
        return False
    transferred = body.get("kv_transfer_params")
    if isinstance(transferred, Mapping) and transferred.get("prompt_token_ids"):
        return False
    for key in _SPOKEN:
        # With each value, whether it is a part of the conversation, or data within one.
        waiting = [(body.get(key), True)]
        while waiting:
            each, part = waiting.pop()
            if isinstance(each, list):
                waiting.extend((inner, part) for inner in each)
            elif isinstance(each, Mapping):
                if not _readable_mapping(each, part=part):
                    return False
                waiting.extend(
                    (inner, part and name in _PARTS_WITHIN) for name, inner in each.items()
                )
            elif isinstance(each, int | float) and key in _WORDS_OR_IDS:
                # Token ids: they say nothing without their tokenizer.
                return False
    return True


def _readable_mapping(each: Mapping[str, Any], *, part: bool) -> bool:
    if any(each.get(name) for name in _UNREADABLE_KEYS):
        return False
    # Without the name of a type, it is not a known frame around text.
    kind = each.get("type", "text" if part else "")
    if not isinstance(kind, str):
        return not part
    if part:
        return kind in _TEXT_PARTS and _MEDIA.isdisjoint(each)
    return kind not in _UNREADABLE_TYPES


def _replaced(value: Any, replacements: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return replacements.get(value, value)
    if isinstance(value, Mapping):
        return {key: _replaced(inner, replacements) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, replacements) for inner in value]
    return value
