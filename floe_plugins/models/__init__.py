"""Resolves model names: one function for everything that takes a model."""

from floe_plugins.models.licence import licence
from floe_plugins.models.resolver import export, resolve
from floe_plugins.models.source import ModelSource

__all__ = ["ModelSource", "export", "licence", "resolve"]
