"""The forms of training data: which fields a row has, and what example they make."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example, as_json

logger = logging.getLogger("flwr")

Row = Mapping[str, Any]

_KINDS = {bool: "true or false", type(None): "null", list: "a list", dict: "an object"}

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,31}", re.ASCII)

_ROLES = {
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "developer": "system",
    "function": "tool",
    "gpt": "assistant",
    "human": "user",
    "model": "assistant",
    "observation": "tool",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
"""What data sets call those who speak, and what chat templates call them."""


@dataclass(frozen=True)
class Template:
    """A pair of format strings that make an example of a row.

    Attributes
    ----------
    prompt : str
        Format string over the row's fields.
    response : str
        Format string over the row's fields.
    """

    prompt: str
    response: str

    @cached_property
    def fields(self) -> frozenset[str]:
        """The fields that both strings name."""
        parts = (*string.Formatter().parse(self.prompt), *string.Formatter().parse(self.response))
        return frozenset(name for _, name, _, _ in parts if name)

    def fill(self, row: Row) -> Example:
        """Return the row's example.

        Raises
        ------
        ValueError
            A field is missing, holds neither text nor a number, does not fit the template, or the
            response is empty; the message is one phrase.
        """
        if missing := sorted(self.fields - row.keys()):
            raise ValueError(
                f"no field {', '.join(missing)}; the row has {', '.join(row) or 'none'}"
            )
        for name in sorted(self.fields):
            text_of(row, name)
        try:
            prompt, response = self.prompt.format_map(row), self.response.format_map(row)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ValueError(f"the template does not fit the row ({error})") from error
        return Example(prompt, response)


@dataclass(frozen=True)
class Form:
    """A set of fields that data sets use, and what example they make.

    Attributes
    ----------
    fields : tuple[str, ...]
        The fields that a row of this form has; others are left alone.
    make : Callable[[Row], Example]
        Makes the example; raises ValueError with one phrase where a value is not accepted.
    fits : Callable[[Row], bool], optional
        What the values of these fields are like, where two forms have the same fields.
    note : str (default: "")
        What is logged once where data of this form are read.
    """

    fields: tuple[str, ...]
    make: Callable[[Row], Example]
    fits: Callable[[Row], bool] = lambda row: True
    note: str = ""

    def recognises(self, row: Row) -> bool:
        """Tell whether a row is of this form."""
        return row.keys() >= set(self.fields) and self.fits(row)


def text_of(row: Row, name: str, *, empty: bool = False) -> str:
    """Return a field's text.

    Parameters
    ----------
    row : Row
        The row.
    name : str
        Its field.
    empty : bool (default: False)
        Whether null stands for no text.

    Raises
    ------
    ValueError
        It holds neither text nor a number.
    """
    if name not in row:
        raise ValueError(f"no field {name}; the row has {_fields(row)}")
    value = row[name]
    if value is None and empty:
        return ""
    # bool is an int for Python: "True" is what it calls it, not what the file says.
    wrong = isinstance(value, bool) or not isinstance(value, (str, int, float))
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        kind = "no number (NaN or infinite)" if isinstance(value, float) else _kind(value)
        raise ValueError(f"the field {name} holds {kind}; text or a number is needed")
    return str(value)


def _fields(row: Row) -> str:
    """Return the names of a row's fields as far as they look like names.

    The sentence may go to the server. A table without a first line of names has text in their
    place.
    """
    names = [str(name) for name in row if _NAME.fullmatch(str(name))]
    other = len(row) - len(names)
    if other:
        names.append(f"{other} that are no names (does the first line hold the fields' names?)")
    return ", ".join(names) or "none"


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _pair(prompt: str, response: str, *, user: str = "") -> Callable[[Row], Example]:
    """Return the function that fills format strings; `user` is what the user says in a chat."""
    template = Template(prompt, response)

    def make(row: Row) -> Example:
        example = template.fill(row)
        if not user:
            return example
        return Example.of_turns(example.prompt, example.response, user=user.format_map(row))

    return make


def _alpaca(field: str, answer: str) -> Callable[[Row], Example]:
    """Return the function for an instruction with a field beside it that may be empty."""

    def make(row: Row) -> Example:
        instruction, beside = text_of(row, "instruction"), text_of(row, field, empty=True)
        asked = f"{instruction}\n{beside}" if beside.strip() else instruction
        return Example.of_turns(f"{asked}\nResponse:", f" {text_of(row, answer)}", user=asked)

    return make


class _WithoutAnswerError(Exception):
    """A row has a question that nobody answers, as a third of SQuAD 2's have."""


def _answers(row: Row) -> Example:
    """Make the example of SQuAD's fields; of several answers the first is learned."""
    answers = row.get("answers")
    texts = answers.get("text") if isinstance(answers, dict) else answers
    if texts == []:
        raise _WithoutAnswerError
    if not isinstance(texts, list):
        raise ValueError(
            f"the field answers holds {_kind(answers)} without a text; a list of texts is needed"
        )
    first = texts[0].get("text") if isinstance(texts[0], dict) else texts[0]
    answer = text_of({"answers": first}, "answers")
    user = text_of(row, "question")
    asked = f"Question: {user}"
    if "context" in row:
        asked = user = f"Context: {text_of(row, 'context', empty=True)}\n{asked}"
    return Example.of_turns(f"{asked}\nAnswer:", f" {answer}", user=user)


def _conversation(messages: object, *, field: str, tools: object = None) -> Example:
    """Make the example of a list of messages.

    Raises
    ------
    ValueError
        It is no list of messages, a role or a content is not accepted, or no assistant speaks.
    """
    if isinstance(messages, str):
        messages = _decoded(messages, field)
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError(f"the field {field} holds {_kind(messages)}; a list of messages is needed")
    turns = [_turn(message, f"{field}[{place}]") for place, message in enumerate(messages)]
    spoken = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not spoken:
        raise ValueError(f"the field {field} has no turn of the assistant to learn")
    # What comes after the last answer has nothing to be learned.
    turns = turns[: spoken[-1] + 1]
    if isinstance(tools, str):
        tools = _decoded(tools, "tools")
    if tools and not isinstance(tools, list):
        raise ValueError(f"the field tools holds {_kind(tools)}; a list of tools is needed")
    listed = _without_nulls(tools) if isinstance(tools, list) else []
    return Example(conversation=as_json(turns), tools=as_json(listed) if listed else "")


def _without_nulls(value: Any) -> Any:
    """Leave out keys that hold null: tables give every row the keys of all rows."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _call(call: object, place: str) -> Any:
    """Return a tool's call as servers give it to chat templates: its arguments decoded.

    vLLM decodes them, too; data sets in OpenAI's form hold them as text.
    """
    found = _without_nulls(call)
    function = found.get("function") if isinstance(found, dict) else None
    if not isinstance(function, dict):
        raise ValueError(f"{place} has a tool call that is no object with a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        decoded = _decoded(arguments, f"{place}.tool_calls") if arguments.strip() else {}
        function = {**function, "arguments": decoded}
    return {**found, "function": function}


def _decoded(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the field {field} holds text that is no JSON ({error}); a list is needed"
        ) from error


def _turn(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{place} holds {_kind(message)}; a message with role and content")
    said = message.get("role", message.get("from"))
    role = _ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        # The role is not quoted: a server reads this sentence, and it may be a person's name.
        raise ValueError(f"{place} has an unknown role; accepted are {', '.join(_ROLES)}")
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls")
    turn: dict[str, Any] = {"role": role}
    if content is None and calls:
        turn["content"] = ""
    elif isinstance(content, list):
        turn["content"] = "".join(_part(part, place) for part in content)
    else:
        turn["content"] = text_of({f"{place}.content": content}, f"{place}.content")
    if calls:
        if not isinstance(calls, list):
            raise ValueError(f"{place} has tool calls that are {_kind(calls)}; a list is needed")
        turn["tool_calls"] = [_call(call, place) for call in calls]
    # What some chat templates read of a tool's answer, or of what an assistant thought.
    for name in ("name", "tool_call_id", "reasoning_content"):
        if message.get(name) is not None:
            turn[name] = text_of(message, name)
    return turn


def _part(part: object, place: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
    if kind != "text" or not isinstance(part, Mapping):
        raise ValueError(f"{place} has a part that is no text; text alone is trained on")
    return text_of(part, "text")


def _list_of(row: Row, field: str) -> list[Any]:
    value = row.get(field)
    if not isinstance(value, list):
        raise ValueError(f"the field {field} holds {_kind(value)}; a list of messages is needed")
    return value


def _listed(*fields: str) -> Callable[[Row], bool]:
    """Return whether each of some fields holds a list, as fields of messages do."""
    return lambda row: all(isinstance(row[field], list) for field in fields)


def _messages(field: str) -> Form:
    return Form(
        (field,),
        lambda row: _conversation(row.get(field), field=field, tools=row.get("tools")),
        fits=lambda row: isinstance(row[field], list) or str(row[field]).lstrip().startswith("["),
    )


def _joined(answer: str) -> Callable[[Row], Example]:
    """Return the function for TRL's conversational prompt and what it is answered with."""

    def make(row: Row) -> Example:
        messages = [message for field in ("prompt", answer) for message in _list_of(row, field)]
        return _conversation(messages, field=f"prompt + {answer}", tools=row.get("tools"))

    return make


_CHOSEN = "preference data: `chosen` is learned, `rejected` is not looked at"

FORMS = (
    _messages("messages"),
    _messages("conversations"),
    _messages("conversation"),
    Form(("prompt", "completion"), _joined("completion"), _listed("prompt", "completion")),
    Form(("prompt", "chosen"), _joined("chosen"), _listed("prompt", "chosen"), _CHOSEN),
    Form(
        ("chosen", "rejected"),
        lambda row: _conversation(row.get("chosen"), field="chosen"),
        _listed("chosen"),
        _CHOSEN,
    ),
    Form(("prompt", "response"), _pair("{prompt}", "{response}")),
    Form(("prompt", "completion"), _pair("{prompt}", "{completion}")),
    Form(("prompt", "chosen"), _pair("{prompt}", "{chosen}"), note=_CHOSEN),
    Form(("question", "chosen"), _pair("{question}", "{chosen}"), note=_CHOSEN),
    Form(("instruction", "input", "output"), _alpaca("input", "output")),
    Form(("instruction", "context", "response"), _alpaca("context", "response")),
    Form(("instruction", "input", "response"), _alpaca("input", "response")),
    Form(
        ("instruction", "output"),
        _pair("{instruction}\nResponse:", " {output}", user="{instruction}"),
    ),
    Form(
        ("instruction", "response"),
        _pair("{instruction}\nResponse:", " {response}", user="{instruction}"),
    ),
    Form(
        ("context", "question", "answer", "long_answer"),
        _pair(
            "Context: {context}\nQuestion: {question}\nAnswer:",
            " {answer}. {long_answer}",
            user="Context: {context}\nQuestion: {question}",
        ),
    ),
    Form(
        ("context", "question", "answer"),
        _pair(
            "Context: {context}\nQuestion: {question}\nAnswer:",
            " {answer}",
            user="Context: {context}\nQuestion: {question}",
        ),
    ),
    Form(("question", "answers"), _answers),
    Form(
        ("question", "answer"),
        _pair("Question: {question}\nAnswer:", " {answer}", user="{question}"),
    ),
    Form(
        ("question", "response"),
        _pair("Question: {question}\nAnswer:", " {response}", user="{question}"),
    ),
    Form(("chosen", "rejected"), _pair("", "{chosen}"), note=_CHOSEN),
    Form(("text",), _pair("", "{text}")),
)
"""Tried in order; the first that fits a row is taken for all rows of the source with its fields."""


def custom_template(prompt: str, response: str) -> Template | None:
    """Return the run configuration's template, None when it gives none.

    Raises
    ------
    ConfigError
        A template is no format string over named fields.
    """
    if not prompt and not response:
        return None
    template = Template(prompt.replace("\\n", "\n"), response.replace("\\n", "\n"))
    try:
        names = template.fields
    except ValueError as error:
        raise ConfigError(
            f"prompt-template {prompt!r} or response-template {response!r} is no template: {error}."
        ) from error
    if not all(name.isidentifier() for name in names):
        raise ConfigError(
            f"prompt-template and response-template may name fields only, got {sorted(names)}."
        )
    return template


def to_examples(
    rows: Iterable[tuple[int, Row]], *, source: str, template: Template | None = None
) -> Iterator[Example]:
    """Turn numbered rows into examples, one after the other.

    Parameters
    ----------
    rows : Iterable[tuple[int, Row]]
        Each row with the number of its line.
    source : str
        What error messages call the data.
    template : Template, optional
        How a row becomes an example; without one its fields decide. Those of the first row must be
        of a known form, which later rows of other fields may leave for another known one.

    Raises
    ------
    ConfigError
        The fields are not recognised, or a row lacks one or holds something else than text; the
        message gives the source and the line.
    """
    known: dict[frozenset[str], Form] = {}
    first: Form | None = None
    unanswered = 0
    for number, row in rows:
        make: Callable[[Row], Example]
        if template is not None:
            make = template.fill
        else:
            fields = frozenset(row)
            if fields not in known:
                known[fields] = _recognise(row, source) if first is None else _like(first, row)
            first = first or known[fields]
            make = known[fields].make
        try:
            yield _checked(make(row), row)
        except _WithoutAnswerError:
            unanswered += 1
        except ValueError as error:
            raise ConfigError(f"{source}, line {number}: {error}.") from error
    if unanswered:
        logger.info("%s: %d questions without an answer are left out.", source, unanswered)


def _checked(example: Example, row: Row) -> Example:
    if not example.text.strip() or (example.has_text and not example.response.strip()):
        raise ValueError("the response is empty")
    try:
        (example.text + example.conversation).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"its text has {error.object[error.start]!r}, half of a character, which no "
            "tokenizer takes"
        ) from error
    seen = json.dumps(row, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
    return replace(example, row=hashlib.sha256(seen).digest()[:16])


def _like(first: Form, row: Row) -> Form:
    """Return the form of a row whose fields are not those of the rows before.

    Of Alpaca's rows some have no ``input``, of question and answer some have a ``context``. What
    is of no form at all is refused by the first one's, with what it lacks.
    """
    return next((form for form in FORMS if form.recognises(row)), first)


def _recognise(row: Row, source: str) -> Form:
    for form in FORMS:
        if form.recognises(row):
            if form.note:
                logger.info("%s: %s.", source, form.note)
            return form
    known = "; ".join(dict.fromkeys(", ".join(form.fields) for form in FORMS))
    raise ConfigError(
        f"{source} has the fields {_fields(row)}, which are not recognised: set "
        f"prompt-template and response-template, or use one of these sets of fields: {known}."
    )
