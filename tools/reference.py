"""Writes the keys of all configurations into the documentation and ``pyproject.toml``.

``python -m tools.reference`` writes tables of keys between marks of pages in ``docs``, and the
defaults of the run configuration into ``[tool.flwr.app.config]``.
"""

from __future__ import annotations

import json
from pathlib import Path

from floe_plugins.gate.settings import CloudSettings, GateSettings
from floe_plugins.middleware.expert_sessions import SessionSettings
from flower_strategy.config import RunConfig
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.request_options import RequestOptions

ROOT = Path(__file__).resolve().parent.parent
_ALL = ("default", "meaning", "accepts")
TABLES = {
    "run": RunConfig.table(*_ALL),
    "serving": FloeConfig.table(*_ALL),
    "expert": ExpertConfig.table(*_ALL),
    "request": RequestOptions.table("accepts", "meaning"),
    "sessions": SessionSettings.table(*_ALL),
    "gate": GateSettings.table(*_ALL),
    "cloud": CloudSettings.table(*_ALL),
}
"""Name of a mark -> the text after it."""
PAGES = {
    "docs/reference/run-configuration.md": ("run",),
    "docs/reference/serving.md": ("serving", "expert", "request", "sessions"),
    "docs/how-to/gate.md": ("gate", "cloud"),
}
"""Page -> its marks, ``<!-- keys: NAME -->`` and ``<!-- end -->``."""


def page(text: str, marks: tuple[str, ...]) -> str:
    """Return a page with its tables up to date.

    Raises
    ------
    ValueError
        A mark is missing.
    """
    for mark in marks:
        before, start, rest = text.partition(f"<!-- keys: {mark} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        if not end:
            raise ValueError(f"there is no block {mark!r}")
        text = f"{before}{start}\n{TABLES[mark]}\n{end}{after}"
    return text


def pyproject(text: str) -> str:
    """Return the project's file with the current defaults.

    Raises
    ------
    ValueError
        The table is missing.
    """
    head = "[tool.flwr.app.config]\n"
    before, found, after = text.partition(head)
    if not found:
        raise ValueError(f"there is no {head.strip()}")
    # Strings, numbers and booleans are written alike in TOML and JSON.
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in RunConfig.defaults().items()]
    _, next_table, rest = after.partition("\n[")
    return before + head + "".join(lines) + next_table + rest


def written() -> dict[Path, str]:
    """Return the files and their contents."""
    texts = {
        ROOT / name: page((ROOT / name).read_text("utf-8"), marks) for name, marks in PAGES.items()
    }
    project = ROOT / "pyproject.toml"
    return {**texts, project: pyproject(project.read_text("utf-8"))}


if __name__ == "__main__":
    for file, text in written().items():
        file.write_text(text, "utf-8")
