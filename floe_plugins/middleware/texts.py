"""All text of a request's body, wherever it stands in it, and back again with placeholders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from floe_plugins.gate import Message

# Where the words of a conversation stand; what is in the rest of a body is read too, but by itself.
_SPOKEN = ("messages", "input", "prompt", "system", "instructions")

# Content that is no text, or text that is kept by the server: neither can be scanned.
_UNREADABLE_PARTS = (
    *(
        "image",
        "image_url",
        "input_image",
        "audio",
        "audio_url",
        "input_audio",
        "video",
        "video_url",
    ),
    *("file", "input_file", "document", "item_reference", "encrypted_content", "image_embeds"),
)
_UNREADABLE_KEYS = (
    *("prompt_embeds", "previous_response_id", "conversation", "multi_modal_data", "mm_processor"),
    *("prompt_token_ids", "documents_embeds"),
)

# Numbers with fewer digits are no values; JSON has cards and telephone numbers as numbers at times.
_LEAST_DIGITS = 5


@dataclass
class BodyTexts:
    """The texts of a body.

    Attributes
    ----------
    messages : list of Message
        Every string of the body, keys too, and long numbers; first those of the conversation in
        their order, with their roles, then the others.
    readable : bool
        False where the body holds what cannot be scanned: token ids, images, references.
    """

    messages: list[Message]
    readable: bool


def texts_of(body: Mapping[str, Any]) -> BodyTexts:
    """Collect the texts of a body.

    Parameters
    ----------
    body : mapping
        A JSON object, as sent to a route of OpenAI's API or one like it.
    """
    spoken: list[Message] = []
    beside: list[Message] = []
    for key, value in body.items():
        beside.append(Message(key, None))
        if key in _SPOKEN:
            _converse(value, spoken, beside)
        else:
            beside.extend(Message(text, None) for text in _strings(value))
    return BodyTexts([*spoken, *beside], _readable(body))


def with_texts(body: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any] | None:
    """Return the body with other texts in the place of those that `texts_of` gives, in that order.

    Returns
    -------
    dict or None
        None where a key or a number would change: there is no placeholder for these.
    """
    before = texts_of(body).messages
    replacements = {
        old.text: new for old, new in zip(before, texts, strict=True) if old.text != new
    }
    replaced: dict[str, Any] = _replaced(body, replacements)
    left = {message.text for message in texts_of(replaced).messages}
    return None if left & replacements.keys() else replaced


def _converse(value: object, spoken: list[Message], beside: list[Message]) -> None:
    """Take a prompt, a list of prompts, or messages apart."""
    turns = value if isinstance(value, list) else [value]
    for turn in turns:
        if isinstance(turn, Mapping) and ("content" in turn or "role" in turn):
            role = turn.get("role")
            role = role if isinstance(role, str) else "user"
            for key, part in turn.items():
                if key == "content":
                    _contents(part, role, spoken, beside)
                else:
                    beside.append(Message(key, None))
                    beside.extend(Message(text, None) for text in _strings(part))
        elif isinstance(turn, str):
            spoken.append(Message(turn))
        else:
            beside.extend(Message(text, None) for text in _strings(turn))


def _contents(content: object, role: str, spoken: list[Message], beside: list[Message]) -> None:
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            spoken.append(Message(part, role))
        elif isinstance(part, Mapping):
            for key, value in part.items():
                beside.append(Message(key, None))
                whose, where = (role, spoken) if key == "text" else (None, beside)
                where.extend(Message(text, whose) for text in _strings(value))
        else:
            beside.extend(Message(text, None) for text in _strings(part))


def _strings(value: object) -> Iterator[str]:
    """Yield every string of a JSON value, keys too, and long numbers, without recursion."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            for key, inner in reversed(each.items()):
                waiting += (inner, key)
        elif isinstance(each, list):
            waiting.extend(reversed(each))
        elif type(each) in (int, float) and len(str(each)) >= _LEAST_DIGITS:
            yield str(each)


def _readable(body: Mapping[str, Any]) -> bool:
    if any(body.get(key) for key in _UNREADABLE_KEYS):
        return False
    for key in _SPOKEN:
        waiting = [body.get(key)]
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                waiting.extend(each)
            elif isinstance(each, Mapping):
                if each.get("type") in _UNREADABLE_PARTS or any(
                    name in each for name in _UNREADABLE_KEYS
                ):
                    return False
                waiting.extend(each.values())
            elif isinstance(each, int | float) and key in ("prompt", "input"):
                # Token ids: they say nothing without their tokenizer.
                return False
    return True


def _replaced(value: Any, replacements: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return replacements.get(value, value)
    if isinstance(value, Mapping):
        return {key: _replaced(inner, replacements) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, replacements) for inner in value]
    return value
