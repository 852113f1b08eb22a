"""Shared parts of configurations: pydantic models with one-sentence errors, and API keys."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from floe_plugins.errors import ConfigError, FloeError

_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_USER_OF_URL = re.compile(r"//[^/\s'\"@]*@")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{1,15})*")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The error messages of one kind of settings: templates for `str.format`, and words.

    Attributes
    ----------
    wrong : str
        With ``key``, ``name`` (of the attribute), ``value`` and ``accepted``.
    unknown : str
        With ``key``, and ``hint`` (the nearest key, or else all) or ``listed`` (all of them).
    missing : str
        With ``key``.
    integer : str
        The term for a whole number.
    up_to : str
        The words before the upper end of a range without a lower end.
    one_of : str
        The words before a choice.
    """

    wrong: str
    unknown: str
    missing: str
    integer: str = "an integer"
    up_to: str = ", up to"
    one_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Annotation with what the type of a key does not express.

    Attributes
    ----------
    accepted : str
        The accepted values in words, if type and range do not express them.
    unset : str
        The meaning of None.
    hidden : bool
        True if users may enter the secret itself by mistake: errors show only names of variables.
    """

    accepted: str = ""
    unset: str = ""
    hidden: bool = False


class Settings(BaseModel):
    """Keys with type, default, range and help; an invalid one raises one `ConfigError`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    wording: ClassVar[Wording]

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # Not chained: pydantic's error holds the values, which may be secret.
            raise self._complaint(error, values) from None

    def changed(self, **values: Any) -> Self:
        """Return the settings with other values, checked again."""
        return type(self)(**{**dict(self), **values})

    @classmethod
    @functools.cache
    def names(cls) -> Mapping[str, str]:
        """Return key -> attribute: first the class's own, then inherited ones."""
        fields = cls.model_fields
        own = [name for name in inspect.get_annotations(cls) if name in fields]
        names = [*own, *(name for name in fields if name not in own)]
        return {fields[name].alias or name: name for name in names}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return key -> default, as files write it, of the keys that have one."""
        return {
            key: cls.written(cls.model_fields[name].default)
            for key, name in cls.names().items()
            if not cls.model_fields[name].is_required()
        }

    @classmethod
    def written(cls, value: Any) -> Any:
        """Return a value as files write it."""
        return list(value) if isinstance(value, tuple) else value

    @classmethod
    def help(cls, name: str) -> str:
        """Return the meaning of a key, without links."""
        return _LINK.sub(r"\1", cls.model_fields[name].description or "")

    @classmethod
    def accepted(cls, name: str, *, quote: str = "") -> str:
        """Return in words what a key accepts; `quote` encloses each value of a choice."""
        kind, notes = _kind(cls.model_fields[name])
        said = [note.accepted for note in notes if isinstance(note, Words) and note.accepted]
        if said:
            return said[-1]
        if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
            options = [str(each) for each in get_args(kind) or kind]
            joint = " or " if len(options) == 2 and not cls.wording.one_of else ", "
            return cls.wording.one_of + joint.join(f"{quote}{each}{quote}" for each in options)
        if kind is bool:
            return "true or false"
        if kind in (int, float):
            word = cls.wording.integer if kind is int else "a number"
            return word + _range(notes, cls.wording.up_to)
        if kind == tuple[str, ...]:
            return "a list of names"
        most = next((note.max_length for note in notes if isinstance(note, MaxLen)), None)
        least = next((note.min_length for note in notes if isinstance(note, MinLen)), 0)
        return f"{least} to {most} characters" if most else "a text"

    @classmethod
    def table(cls, *columns: str) -> str:
        """Return a Markdown table of the keys.

        Parameters
        ----------
        *columns : str
            Among ``default``, ``meaning``, ``accepts``.
        """
        lines = [f"| key | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
        for key, name in cls.names().items():
            cells = {
                "default": cls._shown_default(name),
                "meaning": cls.model_fields[name].description,
                "accepts": cls.accepted(name, quote="`"),
            }
            lines.append(f"| `{key}` | {' | '.join(str(cells[each]) for each in columns)} |")
        return "\n".join(lines) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of a file with these keys."""
        schema = cls.model_json_schema(schema_generator=_SchemaGenerator)
        for key, default in cls.defaults().items():
            schema["properties"][key]["default"] = default
        plain: dict[str, Any] = json.loads(_LINK.sub(r"\1", json.dumps(schema)))
        return {"$schema": GenerateJsonSchema.schema_dialect, **plain}

    @classmethod
    def wrong(cls, name: str, value: object, accepted: str = "") -> ConfigError:
        """Return the error about the value of an attribute."""
        key = cls.model_fields[name].alias or name
        _, notes = _kind(cls.model_fields[name])
        hidden = any(isinstance(note, Words) and note.hidden for note in notes)
        shown = _USER_OF_URL.sub("//***@", repr(value))
        if hidden and isinstance(value, str) and not _VARIABLE.fullmatch(value):
            shown = f"a text of {len(value)} characters"
        return ConfigError(
            cls.wording.wrong.format(
                key=key, name=name, value=shown, accepted=accepted or cls.accepted(name)
            )
        )

    @classmethod
    def refuse_unknown(cls, keys: Iterable[str]) -> None:
        """Raise `ConfigError` about the first key that is not one of the settings'."""
        refuse_unknown(keys, cls.names(), said=cls.wording.unknown)

    @classmethod
    def _complaint(cls, error: ValidationError, values: Mapping[str, Any]) -> ConfigError:
        """Turn pydantic's errors into a sentence about the first relevant one."""
        order = {"extra_forbidden": 0, "missing": 1}
        fault = min(error.errors(include_url=False), key=lambda each: order.get(each["type"], 2))
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            return cause
        key = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            return _unknown(key, list(cls.names()), said=cls.wording.unknown)
        if fault["type"] == "missing":
            return ConfigError(cls.wording.missing.format(key=key))
        name = cls.names().get(key, key)
        value = values[key] if key in values else values[name]
        return cls.wrong(name, value, str(cause or ""))

    @classmethod
    def _shown_default(cls, name: str) -> str:
        key = cls.model_fields[name]
        if key.is_required():
            return "required"
        if key.default is None:
            unset = (note.unset for note in _kind(key)[1] if isinstance(note, Words))
            return next(filter(None, unset), "none")
        return f"`{json.dumps(cls.written(key.default))}`"


class _SchemaGenerator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave out titles that repeat the key."""
        return False


def refuse_unknown(keys: Iterable[str], known: Iterable[str], *, said: str) -> None:
    """Raise an error about the first key that is not `known`, if there is one.

    Parameters
    ----------
    said : str
        The sentence: see ``unknown`` of `Wording`.

    Raises
    ------
    ConfigError
    """
    accepted = list(known)
    for key in keys:
        if key not in accepted:
            raise _unknown(key, accepted, said=said)


def _unknown(key: str, known: Sequence[str], *, said: str) -> ConfigError:
    listed = f"accepted are {', '.join(known)}"
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"{listed}."
    return ConfigError(
        said.format(key=key, hint=hint, listed=f"{listed}; {hint}" if near else f"{listed}.")
    )


def _kind(key: FieldInfo) -> tuple[Any, list[Any]]:
    """Return the type of a key other than None, and its annotations."""
    kind: Any = key.annotation
    notes: Sequence[Any] = key.metadata
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            notes = [*notes, *more]
            continue
        inner = [each for each in get_args(kind) if each is not NoneType]
        if get_origin(kind) not in (Union, UnionType) or len(inner) != 1:
            break
        kind = inner[0]
    flat = [note.metadata if isinstance(note, FieldInfo) else [note] for note in notes]
    return kind, [note for group in flat for note in group]


def _range(notes: Sequence[Any], up_to: str) -> str:
    def shown(value: Any) -> str:
        return f"{value:,.0f}" if value >= 100_000 else f"{value:g}"

    least = next((f" from {shown(note.ge)}" for note in notes if isinstance(note, Ge)), "")
    above = next((f" above {shown(note.gt)}" for note in notes if isinstance(note, Gt)), "")
    most = next((shown(note.le) for note in notes if isinstance(note, Le)), "")
    return least + above + (f"{up_to if above else ' to'} {most}" if most else "")


def _is_url(value: str) -> str:
    if not is_url(value):
        raise ValueError
    return value


def _is_set(value: str) -> str:
    if value not in os.environ:
        raise ValueError
    return value


def _is_there(value: str) -> str:
    if not Path(value).is_file():
        # Users often assume another folder for a relative path.
        relative = value and not Path(value).is_absolute()
        place = f" (looked for as {Path(value).absolute()})" if relative else ""
        raise ValueError(f"{_THERE}{place}")
    return value


def is_url(value: object) -> bool:
    """Return whether `value` is an http(s):// URL with a host and, if any, a valid port."""
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number up to 65,535, or unmatched brackets
        return False


_SET = "the name of an environment variable that is set"
_THERE = "the path of a file that is there"

Url = Annotated[str, AfterValidator(_is_url), Words(accepted="an http:// or https:// URL")]
"""A URL of a server."""
Variable = Annotated[str, AfterValidator(_is_set), Words(accepted=_SET, hidden=True)]
"""The name of an environment variable that holds a secret."""
ExistingFile = Annotated[str, AfterValidator(_is_there), Words(accepted=_THERE)]
"""The path of a file."""
Names = Annotated[tuple[str, ...], Strict(False)]
"""Names, as a list in JSON."""


class ServerAccess(Settings):
    """Access to a server: its API key, and the certificates to verify it with."""

    api_key_env: Variable | None = Field(
        default=None, description="environment variable that holds the API key"
    )
    api_key_file: ExistingFile | None = Field(
        default=None, description="file that holds it instead; read again when it changes"
    )
    ca_file: ExistingFile | None = Field(
        default=None,
        description="certificates (PEM) to verify an https server with, instead of the system's",
    )

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_file is not None:
            alone = f"{_SET}, without api_key_file beside it"
            raise self.wrong("api_key_env", self.api_key_env, alone)
        return self

    def api_key(self) -> ApiKey:
        """Return the API key: the environment's, the file's, or none."""
        return ApiKey.named(variable=self.api_key_env, file=self.api_key_file)


class ApiKeyError(FloeError):
    """The file of an API key cannot be read."""


@dataclass
class ApiKey:
    """A given key, or one that is read from a file whenever the file changes.

    Parameters
    ----------
    file : Path, optional
        Its content, without surrounding white space, is the key.
    """

    value: str | None = field(default=None, repr=False)
    file: Path | None = None
    _seen: tuple[int, int, int] | None = field(default=None, init=False, repr=False)

    @classmethod
    def named(cls, *, variable: str | None, file: str | None) -> ApiKey:
        """Return the key from an environment variable, from a file, or none.

        Raises
        ------
        KeyError
            If the variable is not set.
        """
        return cls(
            value=os.environ[variable] if variable else None, file=Path(file) if file else None
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the header of a request; none without a key.

        Raises
        ------
        ApiKeyError
            If the file cannot be read, or is not text.
        """
        if self.file is not None:
            self._refresh(self.file)
        return [(b"Authorization", f"Bearer {self.value}".encode())] if self.value else []

    def _refresh(self, file: Path) -> None:
        try:
            status = file.stat()
            # A rotated file may have the length and time of the one before it, but not its inode.
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self.value = file.read_text(encoding="ascii").strip()
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            raise ApiKeyError(
                f"The file of the API key cannot be read ({type(error).__name__})."
            ) from None
