"""Loads plugins and lists what each one registers.

Plugins come from the entry-point group `floe_llm` and from dotted paths. The manager calls them one
by one in the order of their names, so that the order of installation does not matter. Every error
names the plugin that caused it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pluggy

from floe_plugins import PROJECT, hooks
from floe_plugins.errors import PluginError
from floe_plugins.hooks import ExpertKind, ModelSource, RankPolicyKind
from floe_plugins.isolated_plugins import IsolatedRouter, IsolatedSource
from floe_plugins.manager_checks import HOOKS, call, checked_name, last_line, refuse_unmarked
from floe_plugins.routers import Router

if TYPE_CHECKING:
    from floe_plugins.gate.detector import Detector

PLUGINS_VARIABLE = "FLOE_LLM_PLUGINS"
"""Environment variable: the plugins to load, separated by commas; ``none`` or empty for none."""

BUILT_IN = "floe"

T = TypeVar("T")


@dataclass(frozen=True)
class Registered(Generic[T]):
    """An object that a plugin registered.

    Attributes
    ----------
    name : str
        The object's own name, unique among its kind.
    plugin : str
        The plugin that registered it; ``floe`` for what comes with Floe.
    value : object
        The detector, router, model source or kind. Routers and model sources of plugins are
        isolated: see :mod:`floe_plugins.isolated_plugins`.
    """

    name: str
    plugin: str
    value: T


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes
    ----------
    name : str
        The name of its entry point, or its dotted path.
    origin : str
        The dotted path of the module or object.
    distribution, version : str or None
        The installed distribution that it belongs to, if an entry point named it.
    hooks : tuple of str
        The hooks that it implements.
    registers : mapping of str to tuple of str
        Hook to the names of the objects that it registered.
    """

    name: str
    origin: str
    distribution: str | None
    version: str | None
    hooks: tuple[str, ...] = ()
    registers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PluginManager:
    """All registered objects, by kind and name.

    Attributes
    ----------
    plugins : tuple of Plugin
        Floe's own first, the others by name.
    detectors, routers, experts, model_sources, rank_policies : mapping of str to Registered
        Name to object.
    """

    plugins: tuple[Plugin, ...]
    detectors: Mapping[str, Registered[Detector]]
    routers: Mapping[str, Registered[Router]]
    experts: Mapping[str, Registered[ExpertKind]]
    model_sources: Mapping[str, Registered[ModelSource]]
    rank_policies: Mapping[str, Registered[RankPolicyKind]]


def plugin_manager(paths: Iterable[str] = ()) -> PluginManager:
    """Load the plugins and return what they registered.

    Parameters
    ----------
    paths : iterable of str, optional
        Dotted paths to load besides the installed plugins, as ``package.module`` or
        ``package.module:attribute``. A server's engine is a process of its own: it gets a plugin
        that is not installed only by such a path.

    Returns
    -------
    PluginManager
        The same object for the same paths and the same value of ``FLOE_LLM_PLUGINS``.

    Raises
    ------
    PluginError
        A plugin cannot be loaded, implements an unknown hook or one with a wrong signature, or
        registers something invalid or under a name that is taken. The message names the plugin.
    """
    return _load(os.environ.get(PLUGINS_VARIABLE), tuple(sorted(set(paths))))


def forget_plugins() -> None:
    """Make the next call of `plugin_manager` load plugins again; for tests."""
    _load.cache_clear()


@functools.cache
def _load(selection: str | None, paths: tuple[str, ...]) -> PluginManager:
    found = _installed()
    names, selected_paths = _select(selection, found)
    loader = pluggy.PluginManager(PROJECT)
    loader.add_hookspecs(hooks)

    # Imported by name and only here: what Floe registers, such as the gate's detectors, imports
    # modules that get plugins from this one.
    builtin = importlib.import_module("floe_plugins.builtin")
    loader.register(builtin, name=BUILT_IN)
    plugins = [
        Plugin(BUILT_IN, builtin.__name__, "floe-llm", _version("floe-llm")),
    ]
    for name in sorted(names):
        entry = found[name]
        _register(loader, name, entry.value)
        distribution = entry.dist
        plugins.append(
            Plugin(
                name,
                entry.value,
                distribution.name if distribution else None,
                distribution.version if distribution else None,
            )
        )
    for path in sorted({*paths, *selected_paths}):
        _register(loader, path, path)
        plugins.append(Plugin(path, path, None, None))

    things = {hook: _ask(loader, hook, [plugin.name for plugin in plugins]) for hook in HOOKS}
    return PluginManager(
        plugins=tuple(_with_registrations(plugin, loader, things) for plugin in plugins),
        detectors=cast("Mapping[str, Registered[Detector]]", things["floe_register_detectors"]),
        routers=cast("Mapping[str, Registered[Router]]", things["floe_register_routers"]),
        experts=cast("Mapping[str, Registered[ExpertKind]]", things["floe_register_experts"]),
        model_sources=cast(
            "Mapping[str, Registered[ModelSource]]", things["floe_register_model_sources"]
        ),
        rank_policies=cast(
            "Mapping[str, Registered[RankPolicyKind]]", things["floe_register_rank_policies"]
        ),
    )


def _installed() -> dict[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=PROJECT):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise PluginError(
                f"Two installed plugins are called {entry.name!r}: {_describe(other)} and "
                f"{_describe(entry)}; uninstall one, or name the others in {PLUGINS_VARIABLE}."
            )
        if entry.name == BUILT_IN:
            raise PluginError(
                f"The plugin of {_describe(entry)} is called {BUILT_IN!r}, which is Floe's own "
                "name; it needs another."
            )
        found[entry.name] = entry
    return found


def _describe(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} ({entry.value})" if entry.dist else entry.value


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _select(
    selection: str | None, found: Mapping[str, metadata.EntryPoint]
) -> tuple[set[str], set[str]]:
    """Split the environment variable into entry-point names and dotted paths."""
    if selection is None:
        return set(found), set()
    chosen = {part.strip() for part in selection.split(",")} - {"", "none"}
    names = chosen & set(found)
    paths = {part for part in chosen - names if _is_path(part)}
    unknown = sorted(chosen - names - paths)
    if unknown:
        raise PluginError(
            f"{PLUGINS_VARIABLE} names {unknown[0]!r}, which is neither installed "
            f"({', '.join(sorted(found)) or 'no plugin is'}) nor a module that can be imported."
        )
    return names, paths


def _is_path(part: str) -> bool:
    # A dot or a colon makes it a path; if it cannot be imported, a later error names it.
    return "." in part or ":" in part or importlib.util.find_spec(part) is not None


def _register(loader: pluggy.PluginManager, name: str, path: str) -> None:
    plugin = _import(name, path)
    refuse_unmarked(name, plugin)
    try:
        loader.register(plugin, name=name)
        loader.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"The plugin {name!r} is not valid: {last_line(error)}") from error
    except ValueError as error:
        raise PluginError(f"The plugin {name!r} is the same object as another one.") from error


def _import(name: str, path: str) -> object:
    module, _, attribute = path.partition(":")
    try:
        plugin: object = importlib.import_module(module)
        for part in attribute.split(".") if attribute else ():
            plugin = getattr(plugin, part)
    except Exception as error:  # a plugin's module may raise anything
        raise PluginError(
            f"The plugin {name!r} cannot be loaded from {path!r}: "
            f"{type(error).__name__}: {last_line(error)}"
        ) from error
    if inspect.isclass(plugin):
        raise PluginError(
            f"The plugin {name!r} is the class {path}; accepted are a module or an instance."
        )
    return plugin


def _ask(
    loader: pluggy.PluginManager, hook: str, order: Sequence[str]
) -> Mapping[str, Registered[Any]]:
    """Call one hook of every plugin and check what it returns."""
    implementations = {
        impl.plugin_name: impl for impl in loader.hook.__dict__[hook].get_hookimpls()
    }
    things: dict[str, Registered[Any]] = {}
    for plugin in order:
        implementation = implementations.get(plugin)
        if implementation is None:
            continue
        if implementation.hookwrapper or implementation.wrapper:
            # A wrapper could drop what another plugin registers.
            raise PluginError(
                f"The plugin {plugin!r} wraps {hook}; a plugin may only add to what others "
                "register."
            )
        for thing in call(plugin, hook, implementation.function):
            name = checked_name(plugin, hook, thing)
            if name in things:
                raise PluginError(
                    f"The plugins {things[name].plugin!r} and {plugin!r} both register {name!r} "
                    f"with {hook}; names must be unique."
                )
            things[name] = Registered(name, plugin, _behind_wall(plugin, hook, thing))
    return MappingProxyType(things)


def _behind_wall(plugin: str, hook: str, thing: Any) -> Any:
    """Isolate a plugin's object where Floe calls it; the gate and the halves do so themselves."""
    walls: dict[str, Any] = {
        "floe_register_routers": IsolatedRouter,
        "floe_register_model_sources": IsolatedSource,
    }
    if plugin == BUILT_IN or hook not in walls:
        return thing
    try:
        return walls[hook](thing, plugin=plugin)
    except Exception as error:  # an attribute of a plugin's object may raise anything
        raise PluginError(
            f"The plugin {plugin!r} registers with {hook} something that cannot be used: "
            f"{type(error).__name__}: {last_line(error)}"
        ) from error


def _with_registrations(
    plugin: Plugin,
    loader: pluggy.PluginManager,
    things: Mapping[str, Mapping[str, Registered[Any]]],
) -> Plugin:
    callers = loader.get_hookcallers(loader.get_plugin(plugin.name)) or []
    hooks = tuple(sorted(caller.name for caller in callers))
    registers = {
        hook: tuple(thing.name for thing in things[hook].values() if thing.plugin == plugin.name)
        for hook in hooks
    }
    return Plugin(plugin.name, plugin.origin, plugin.distribution, plugin.version, hooks, registers)
