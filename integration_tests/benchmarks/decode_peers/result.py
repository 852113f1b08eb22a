"""The table, and what it says."""

from integration_tests.benchmarks.cli import Namespace, Result, Values


def result(values: Values, _: Namespace) -> Result:
    """Return the figures in one row."""
    keys = ("expert", "host_tokens_per_s", "sequential_tokens_per_s", "floe_tokens_per_s", "ratio")
    said = (
        f"Floe decodes {values['ratio']:.2f} times as many tokens per second as one call after the "
        f"other, {values['floe_tokens_per_s'] / values['host_tokens_per_s']:.2f} of the host alone."
    )
    return Result(header=keys, rows=[[values[key] for key in keys]], remarks=[said])
