"""Floe's extras by its own metadata: what they require, and the command that installs one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import metadata
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "floe-llm"

#: Modules whose names differ from their distributions'.
_BROUGHT_BY = {"sklearn": "scikit-learn", "vl_convert": "vl-convert-python"}


def requirements(extra: str) -> list[Requirement]:
    """Return what an extra requires beyond the base; nothing if Floe is not installed."""
    try:
        texts = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return list(_of(extra, [Requirement(text) for text in texts]))


def _of(extra: str, stated: Sequence[Requirement]) -> Iterator[Requirement]:
    for requirement in stated:
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        # An extra includes another one by naming the distribution itself.
        if canonicalize_name(requirement.name) == DISTRIBUTION:
            for inner in requirement.extras:
                yield from _of(inner, stated)
        elif not requirement.marker.evaluate({"extra": ""}):
            yield requirement


def brings(extra: str, module: str) -> bool:
    """Return whether an extra requires the distribution of a module, given by its dotted name."""
    top = module.partition(".")[0]
    distribution = canonicalize_name(_BROUGHT_BY.get(top, top))
    return any(canonicalize_name(one.name) == distribution for one in requirements(extra))


def install_command(extra: str) -> str:
    """Return the command that installs an extra from where the installed Floe came from.

    That is its checkout, wheel or repository, as the installer recorded it (PEP 610); only the name
    if it came from an index.
    """
    try:
        noted = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        noted = None
    origin = json.loads(noted) if noted else {}
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        return f"pip install '{DISTRIBUTION}[{extra}] @ {origin['vcs_info']['vcs']}+{url}'"
    parts = urlsplit(url)
    if parts.scheme == "file":
        return f"pip install '{unquote(parts.path)}[{extra}]'"
    if url:
        return f"pip install '{DISTRIBUTION}[{extra}] @ {url}'"
    return f"pip install '{DISTRIBUTION}[{extra}]'"
