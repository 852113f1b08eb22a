"""The table, and the aim compared with its cases."""

from integration_tests.benchmarks.cli import Namespace, Result, Values
from integration_tests.benchmarks.fusion_cost.measure import AIM, AIMED_ROWS


def result(values: Values, options: Namespace) -> Result:
    """Return one row per case."""
    cases = values["cases"]
    aimed = [case for case in cases if case["rows"] in AIMED_ROWS]
    said = f"None of the rows that the aim is about ({AIMED_ROWS})."
    if aimed:
        worst = max(aimed, key=lambda case: float(case["ratio"]))
        said = (
            f"At most {AIM:g} times log_softmax, the aim at {' and '.join(map(str, AIMED_ROWS))} "
            f"rows, in {sum(case['ratio'] <= AIM for case in aimed)} of {len(aimed)} cases; at "
            f"worst {worst['ratio']:.2f} ({worst['rows']} rows of {worst['vocabulary']:,}, "
            f"K = {worst['k']:,})."
        )
    return Result(
        header=list(cases[0]),
        rows=[list(case.values()) for case in cases],
        remarks=[
            said,
            f"Medians of {options.repeats} interleaved runs on one thread; its own milliseconds.",
        ],
    )
