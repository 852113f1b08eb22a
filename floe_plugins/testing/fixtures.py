"""Pytest fixtures for plugin authors.

Import them into a test file with ``from floe_plugins.testing.fixtures import load_plugin``, or for
all tests with ``pytest_plugins = ["floe_plugins.testing.fixtures"]`` in the topmost conftest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from floe_plugins.gate import Detector, Gate
from floe_plugins.manager import PLUGINS_VARIABLE, PluginManager, forget_plugins, plugin_manager
from floe_plugins.routers import RouterSignals
from floe_plugins.testing.routers import make_signals

__all__ = ["gate_with", "load_plugin", "router_signals"]


@pytest.fixture
def load_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], PluginManager]]:
    """Load only one plugin, by its dotted path or installed name, as a server does."""

    def load(plugin: str) -> PluginManager:
        monkeypatch.setenv(PLUGINS_VARIABLE, plugin)
        forget_plugins()
        return plugin_manager()

    yield load
    forget_plugins()


@pytest.fixture
def gate_with() -> Callable[..., Gate]:
    """Build a privacy gate with only the given detectors."""

    def make(*detectors: Detector | str, policy: str = "strict") -> Gate:
        return Gate(detectors=detectors, policy=policy, profile="strict")

    return make


@pytest.fixture
def router_signals() -> Callable[..., RouterSignals]:
    """Make signals for a router; see :func:`floe_plugins.testing.routers.make_signals`."""
    return make_signals
