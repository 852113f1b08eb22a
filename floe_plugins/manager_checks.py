"""Checks what plugins register; every error names the plugin."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from floe_plugins import PROJECT
from floe_plugins.errors import PluginError
from floe_plugins.hooks import RESERVED

#: Names that a registered object may have.
NAME = re.compile(r"[a-z][a-z0-9_-]*")

#: Hook -> the attributes and the methods that an object registered with it must have.
HOOKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "floe_register_detectors": (("name", "labels"), ("detect",)),
    "floe_register_routers": (("name",), ("log_odds",)),
    "floe_register_experts": (("name",), ("build",)),
    "floe_register_model_sources": (("name",), ("references", "resolve")),
    "floe_register_rank_policies": (("name",), ("build",)),
}


def refuse_unmarked(name: str, plugin: object) -> None:
    """Refuse hooks that pluggy would ignore silently: misspelt or unmarked ones."""
    for attribute, value in inspect.getmembers(plugin, inspect.isroutine):
        if not attribute.startswith("floe_") or hasattr(value, f"{PROJECT}_impl"):
            continue
        if attribute in HOOKS:
            raise PluginError(
                f"The plugin {name!r} defines {attribute} without @floe_plugins.hookimpl."
            )
        raise PluginError(
            f"The plugin {name!r} defines {attribute}, which is no hook; "
            f"hooks are {', '.join(HOOKS)}."
        )


def call(plugin: str, hook: str, function: Any) -> Sequence[object]:
    """Call one hook of one plugin and return its list."""
    try:
        result = function()
    except Exception as error:  # a plugin may raise anything
        raise PluginError(
            f"The plugin {plugin!r} raised {type(error).__name__} in {hook}: {last_line(error)}"
        ) from error
    if not isinstance(result, list | tuple):
        raise PluginError(
            f"The plugin {plugin!r} returned {type(result).__name__} from {hook}; "
            "accepted is a list or a tuple."
        )
    return result


def checked_name(plugin: str, hook: str, thing: object) -> str:
    """Check an object that a plugin registers and return its name."""
    try:
        return _checked_name(plugin, hook, thing)
    except PluginError:
        raise
    except Exception as error:  # a property of a plugin's object may raise anything
        raise PluginError(
            f"The plugin {plugin!r} registers with {hook} a {type(thing).__name__} that raises "
            f"{type(error).__name__}: {last_line(error)}"
        ) from error


def _checked_name(plugin: str, hook: str, thing: object) -> str:
    if inspect.isclass(thing):
        raise PluginError(
            f"The plugin {plugin!r} registers the class {thing.__name__} with {hook}; accepted are "
            "instances."
        )
    attributes, methods = HOOKS[hook]
    missing = [
        *(name for name in attributes if not hasattr(thing, name)),
        *(name for name in methods if not callable(getattr(thing, name, None))),
    ]
    if missing:
        raise PluginError(
            f"The plugin {plugin!r} registers with {hook} a {type(thing).__name__} without "
            f"{', '.join(missing)}."
        )
    name = thing.name  # type: ignore[attr-defined]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(
            f"The plugin {plugin!r} registers the name {name!r} with {hook}; accepted are "
            "lower-case letters, digits, '-' and '_', a letter first."
        )
    if name in RESERVED.get(hook, ()):
        raise PluginError(
            f"The plugin {plugin!r} registers {name!r} with {hook}, which is one of Floe's own; "
            "names must be unique."
        )
    return name


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, where pluggy and Python name the cause."""
    return (str(error).strip().splitlines() or [""])[-1]
