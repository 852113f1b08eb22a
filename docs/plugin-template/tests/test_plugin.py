"""Floe finds the plugin where it is installed."""

from collections.abc import Callable

from floe_plugins.manager import PluginManager
from floe_plugins.testing.fixtures import load_plugin as load_plugin


def test_it_registers_what_it_says(load_plugin: Callable[[str], PluginManager]) -> None:
    """By the name of its entry point."""
    manager = load_plugin("badges")
    assert manager.detectors["badge"].plugin == "badges"
    assert manager.routers["doubt"].plugin == "badges"
