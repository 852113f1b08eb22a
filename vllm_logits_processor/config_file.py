"""Reads the JSON file with the processor's configuration."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError

#: The key of the processor's section in vLLM's ``--additional-config``.
SECTION = "floe"

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_config_file(path: object, *, named_by: str, alone: bool = True) -> dict[str, Any]:
    """Read a configuration: the keys of the section, or an object with the section ``floe``.

    Parameters
    ----------
    path : object
        The file; a relative path starts at the folder in which the process was started.
    named_by : str
        What names the file; errors begin with it, such as ``floe: config_file``.
    alone : bool
        False if other keys may stand beside ``floe``, as in the value of ``--additional-config``.

    Raises
    ------
    ConfigError
        If it cannot be read, is not a JSON object in UTF-8, or has a key twice.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ConfigError(f"{named_by} is {path!r}; accepted is the path of a JSON file.")
    file = Path(path).expanduser()
    what = f"{named_by} is {str(path)!r}"
    try:
        data = file.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"{what}, which cannot be read ({file.absolute()}: {reason}); a relative path counts "
            "from the folder in which the server is started."
        ) from None
    if data.startswith(_UTF_16):
        raise ConfigError(f"{what}, which is UTF-16; accepted is UTF-8: save it as that.")
    try:
        # Windows editors may put a byte order mark before UTF-8.
        values = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except _DuplicateKeyError as error:
        raise ConfigError(f"{what}, where the key {error} stands twice; keep one.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{what}, which is not UTF-8 (byte {error.start}); accepted is JSON in UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}, which cannot be read as JSON ({error}).") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{what}, which holds {_short(values)}; accepted is a JSON object.")
    values.pop("$schema", None)  # for editors
    return _section(values, what, alone=alone)


def merged(inline: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Merge both sources; refuse a key in both, since neither takes precedence."""
    both = {**inline, **file}
    for key in inline.keys() & file.keys():
        if not (isinstance(inline[key], dict) and isinstance(file[key], dict)):
            raise ConfigError(
                f"floe: {key} stands on the command line and in config_file; keep one."
            )
        both[key] = merged(inline[key], file[key])
    return both


class _DuplicateKeyError(Exception):
    """An object has a key twice; JSON leaves open which one counts."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKeyError(repr(key))
        found[key] = value
    return found


def _section(values: dict[str, Any], what: str, *, alone: bool) -> dict[str, Any]:
    """Return the section, which stands alone or under its name as on the command line."""
    if SECTION not in values:
        return values
    section = values[SECTION]
    others = [key for key in values if key != SECTION]
    if others and alone:
        raise ConfigError(
            f"{what}, where {', '.join(map(repr, others))} stands beside 'floe'; accepted is the "
            'section alone, or {"floe": {...}} with nothing beside it.'
        )
    if not isinstance(section, Mapping):
        raise ConfigError(f"{what}, where floe is {_short(section)}; accepted is a JSON object.")
    return dict(section)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
