"""The table, and the measurements compared with the aims."""

from integration_tests.benchmarks.cli import Namespace, Result, Values

#: Least shares of plain vLLM's speed up to a latency of `NEAR` steps; of the slower above it.
AIM, NEAR = 0.95, 0.8
AIMS_OF_SLOWER = {1.0: 0.88, 2.0: 0.93}


def result(values: Values, _: Namespace) -> Result:
    """Return one row per latency."""
    remarks = _conclusions(values)
    for name in ("silence", "lookahead"):
        if name in values:
            figures = (f"{key} {figure:.4g}" for key, figure in values[name].items())
            remarks.append(f"{name}: {', '.join(figures)}")
    remarks += _drafts(values)
    if "outside_share" in values:
        remarks.append(f"outside_share: {values['outside_share']:.3g}")
    keys = ("latency_over_step", "step_ms", "tokens_per_s", "throughput_ratio", "of_slower")
    rows = [[case[key] for key in keys] for case in values["cases"]]
    return Result(header=keys, rows=rows, remarks=remarks)


def _conclusions(values: Values) -> list[str]:
    said = []
    for case in values["cases"]:
        latency = case["latency_over_step"]
        if latency in AIMS_OF_SLOWER:
            said.append((latency, "of the slower", case["of_slower"], AIMS_OF_SLOWER[latency]))
        elif latency <= NEAR:
            said.append((latency, "of plain vLLM", case["throughput_ratio"], AIM))
    shown = "; ".join(
        f"at {latency:g} steps {ratio:.3f} {what} (aim: {aim:g}, "
        + ("met)" if ratio >= aim else f"missed by {aim - ratio:.3f})")
        for latency, what, ratio, aim in said
    )
    return [f"Tokens per second {shown}."] if shown else []


def _drafts(values: Values) -> list[str]:
    """Return a line for each text, with all ways on it."""
    if "drafts" not in values:
        return []
    found = values["drafts"]
    cases: dict[str, list[str]] = {}
    for case in found["cases"]:
        text = "same text" if case["texts_equal"] else "another text"
        cases.setdefault(case["text"], []).append(
            f"{case['way']} {case['tokens_per_s']:.3g} tokens per second, "
            f"{case['calls_per_token']:.2f} calls a token, {case['ratio']:.2f} times, {text}"
        )
    return [
        f"drafts, {text} text, {found['latency_over_step']:g} steps of {found['step_ms']:.4g} ms "
        f"away: {'; '.join(ways)}."
        for text, ways in cases.items()
    ]
