"""Reads a section of the processor's configuration: its keys, and what is said of a wrong value."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

from floe_plugins import config as shared
from floe_plugins.errors import ConfigError


def accept(key: str, value: object, accepted: str, *, good: bool) -> None:
    """Raise `ConfigError` about a key of the processor's configuration unless `good`."""
    shared.accept(f"floe: {key}", value, accepted, good=good)


def check_places(outer: type, section: type, values: Mapping[str, Any], *, inner: str) -> None:
    """Name keys that stand in the configuration and belong in its section, and the reverse.

    Parameters
    ----------
    outer, section : type
        The dataclasses of the configuration and of the section inside it.
    values : mapping of str to object
        The configuration as it was read.
    inner : str
        The name of the section.

    Raises
    ------
    ConfigError
        About the misplaced keys; about a section whose name is misspelt.
    """
    outside = {field.name for field in dataclasses.fields(outer)} | {"config_file"}
    inside = {field.name for field in dataclasses.fields(section)}
    found = [key for key in values if key in inside - outside]
    if found:
        raise ConfigError(
            f"floe: {_listed(found)} in the section {inner!r}, not beside it: "
            f"write {{{json.dumps(inner)}: {{{json.dumps(found[0])}: ...}}}}."
        )
    part = values.get(inner)
    found = [key for key in part if key in outside - inside] if isinstance(part, Mapping) else []
    if found:
        raise ConfigError(
            f"floe: {_listed(found)} beside the section {inner!r}, not in it: "
            f"write {{{json.dumps(inner)}: {{...}}, {json.dumps(found[0])}: ...}}."
        )
    if inner not in values:
        for key in values:
            if key not in outside and difflib.get_close_matches(key.lower(), [inner], n=1):
                raise ConfigError(f"floe: {key} is not a setting; did you mean {inner!r}?")


def _listed(keys: list[str]) -> str:
    return f"{', '.join(keys)} {'belongs' if len(keys) == 1 else 'belong'}"


def known(kind: type, values: Mapping[str, Any], *, section: str) -> dict[str, Any]:
    """Check the keys against the fields of a configuration class; lists become tuples.

    Parameters
    ----------
    kind : type
        A dataclass.
    values : mapping of str to object
        Keys and values as they were read.
    section : str
        Stands in front of a key in sentences, such as ``expert.``.

    Returns
    -------
    dict of str to object
        What `kind` is to be made with.

    Raises
    ------
    ConfigError
        If a key is no field, a field without a default is missing, or a list holds anything but
        strings.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"accepted are {', '.join(fields)}."
            raise ConfigError(f"floe: {section}{key} is not a setting; {hint}")
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    for key in sorted(required - values.keys()):
        raise ConfigError(f"floe: {section}{key} is missing.")
    checked = {}
    for key, value in values.items():
        takes_list = "tuple" in str(fields[key].type)
        takes_string = str(fields[key].type).startswith("str")
        takes_nothing = "None" in str(fields[key].type) and value is None
        if takes_list and not (takes_string and isinstance(value, str)) and not takes_nothing:
            good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
            accepted = "a string or a list of strings" if takes_string else "a list of names"
            accept(section + key, value, accepted, good=good)
            value = tuple(value)
        checked[key] = value
    return checked
