"""Reads a section of the processor's configuration: its keys, and what is said of a wrong value."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from floe_plugins import config_checks
from floe_plugins.errors import ConfigError


def accept(key: str, value: object, accepted: str, *, good: bool) -> None:
    """Raise `ConfigError` about a key of the processor's configuration unless `good`."""
    config_checks.accept(f"floe: {key}", value, accepted, good=good)


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
        if takes_list and not (takes_string and isinstance(value, str)) and value is not None:
            good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
            accept(section + key, value, "a list of names", good=good)
            value = tuple(value)
        checked[key] = value
    return checked
