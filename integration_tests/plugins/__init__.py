"""Plugins of other packages, installed and discovered."""
