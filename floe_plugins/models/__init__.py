"""Resolves model names: one function for everything that takes a model."""

from floe_plugins.hooks import ModelSource
from floe_plugins.models.resolver import export, licence, resolve

__all__ = ["ModelSource", "export", "licence", "resolve"]
