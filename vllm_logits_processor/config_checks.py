"""What a configuration says of a wrong value: one sentence with key, value and what is accepted."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from floe_plugins.errors import ConfigError


def accept(key: str, value: object, accepted: str, *, good: bool) -> None:
    """Raise `ConfigError` with the one sentence unless `good`."""
    if not good:
        raise ConfigError(f"floe: {key} is {value!r}; accepted is {accepted}.")


def is_number(value: object) -> bool:
    """Tell a number from the rest; JSON's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object, *, least: int, most: int) -> bool:
    """Tell whether `value` is an integer in a range, both ends included."""
    return type(value) is int and least <= value <= most


def known(kind: type, values: Mapping[str, Any], *, section: str) -> dict[str, Any]:
    """Check the keys against the fields of a configuration class; lists become tuples.

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
