"""The table, and what left."""

from typing import Any

from integration_tests.benchmarks.cli import Namespace, Result, Values

_HEADER = (
    *("", "requests", "bytes left", "bytes an answer with the LLM's help", "private spans left"),
    *("retention", "private prompts with a span that left", "public prompts with the LLM's help"),
    *("spans that answers repeat", "seconds an answer"),
)


def result(values: Values, _: Namespace) -> Result:
    """Return one row per way to answer."""
    rows = [_row(name, system) for name, system in values["systems"].items()]
    return Result(header=_HEADER, rows=rows, remarks=_remarks(values))


def _row(name: str, system: Values) -> list[Any]:
    helped = system["bytes_per_helped_answer"]
    shares = (f"{system[key]:.1%}" for key in ("retention", "leaking_share", "public_helped_share"))
    return [
        *(name, system["requests"], system["bytes"], "-" if helped is None else round(helped)),
        *(system["spans_left"], *shares, system["spans_repeated"], system["seconds_per_answer"]),
    ]


def _remarks(values: Values) -> list[str]:
    systems, classes = values["systems"], values["spans_by_class"]
    floe, llm = systems["floe"], systems["llm-only"]
    kept = ", ".join(f"{name} {each['retention']:.1%}" for name, each in systems.items())
    left = floe["spans_left_by_class"].items()
    missed = ", ".join(f"{label} {count} of {classes[label]}" for label, count in left) or "none"
    helped = ", ".join(f"{name} {one['public_helped_share']:.1%}" for name, one in systems.items())
    remarks = [
        f"Retention, 1 - spans that left over those that left under llm-only "
        f"({llm['spans_left']} of {values['spans']}): {kept}.",
        f"Spans that left under floe, by class: {missed}.",
        f"Public prompts with the LLM's help: {helped}.",
    ]
    if floe["helped_prompts"]:
        each, once = floe["bytes_per_helped_answer"], llm["bytes_per_helped_answer"]
        remarks.append(
            f"Floe sends the growing text at every token: {each:.0f} bytes per answer with the "
            f"LLM's help, {each / once:.1f} times llm-only's {once:.0f}; over all prompts "
            f"{floe['bytes'] / llm['bytes']:.1f} times its bytes."
        )
    return remarks
