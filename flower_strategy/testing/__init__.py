"""Helpers for tests of code that builds on this package: in-process grids, tiny models."""
