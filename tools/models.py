"""Writes which modules of each architecture carry factors, on ``docs/reference/models.md``.

``python -m tools.models`` puts the table between the page's marks. Shares are those of the sizes
that transformers gives an architecture by default, for BLOOM of its smallest model; no weights are
made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig

from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.adapters.vllm_support import RELEASE, vllm_support
from flower_strategy.config_keys import ALL_LINEAR
from flower_strategy.device.model_checks import empty_model
from flower_strategy.device.target_modules import find_modules
from flower_strategy.testing.architectures import ARCHITECTURES, Architecture

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "models.md"
MARKS = "<!-- models -->\n", "<!-- end -->\n"
HEAD = (
    f"| architecture | `model_type` | modules with factors | share | PEFT | vLLM {RELEASE} |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)
_VLLM = {True: "yes", False: "no", None: "not known"}


def row(architecture: Architecture) -> str:
    """Return an architecture's line of the table."""
    whole = _empty(architecture.kind, **architecture.size)
    modules = find_modules(whole, (ALL_LINEAR,), name=architecture.title)
    names = ", ".join(f"`{name}`" for name in modules.names)
    serves = _VLLM[vllm_support(modules).takes]
    if modules.is_mixture and serves == "yes":
        serves = "on GPUs"
    cells = (
        architecture.title,
        f"`{architecture.kind}`",
        names,
        f"{modules.share:.0%}",
        _beside(architecture, modules),
        serves,
    )
    return f"| {' | '.join(cells)} |\n"


def _empty(kind: str, **values: Any) -> Any:
    return empty_model(kind, AutoConfig.for_model(kind, **values))


def _beside(architecture: Architecture, modules: AdaptedModules) -> str:
    """Return what PEFT's all-linear adapts beside these modules."""
    model = _empty(architecture.kind, **architecture.tiny)
    tiny = find_modules(
        _empty(architecture.kind, **architecture.tiny), (ALL_LINEAR,), name=architecture.title
    )
    config = LoraConfig(
        r=1, target_modules=ALL_LINEAR, fan_in_fan_out=modules.transposed, task_type="CAUSAL_LM"
    )
    inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    paths = {path for path, each in model.named_modules() if isinstance(each, LoraLayer)}
    more = [
        group.name
        for group in tiny.others
        if any(_stands_in(path, group.name) for path in paths - set(tiny.shapes))
    ]
    if not more:
        return "the same"
    return "also " + ", ".join(f"`{name}`" for name in dict.fromkeys(more))


def _stands_in(path: str, name: str) -> bool:
    """Tell whether a module is one of a group's, or a part of one."""
    return f"{path}.".startswith(f"{name.replace('*', '0')}.")


def page(text: str, rows: list[str]) -> str:
    """Return the page with a table.

    Raises
    ------
    ValueError
        A mark is not there.
    """
    before, start, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f"there is no block {MARKS[0].strip()}")
    return f"{before}{start}\n{HEAD}{''.join(rows)}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8"), [row(each) for each in ARCHITECTURES]), "utf-8")
