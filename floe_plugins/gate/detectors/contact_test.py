import pytest

from floe_plugins.gate.detectors.contact import PhoneDetector, is_grouped, is_planned


@pytest.mark.parametrize(
    "number",
    ["612 34 56 78", "912 345 678", "312 345 6789", "512-345-678", "601 234 567", "8123 4567"],
)
def test_numbers_as_a_country_writes_them(number: str) -> None:
    assert is_grouped(number)
    assert is_planned(number)
    (span,) = PhoneDetector().detect(f"Ana, {number}, from noon")
    assert (span.start, span.end) == (5, 5 + len(number))


@pytest.mark.parametrize(
    "other",
    [
        "123 456 789",
        "20 30 40 50",
        "612345678",
        "2019 2020",
        "100 200 300",
        "612 34-56 78",
        "3.141 592 653",
    ],
)
def test_other_numbers(other: str) -> None:
    assert not (is_grouped(other) and is_planned(other))
    assert not PhoneDetector().detect(f"The sum is {other}.")


def test_a_number_that_calls_no_country_is_in_no_plan() -> None:
    """It has the form of an international number, though, and is found by that."""
    assert not is_planned("00 999 9999")
    assert len(PhoneDetector().detect("dial-in 00 999 9999")) == 1


def test_what_there_is_no_time_to_look_up_counts_as_found() -> None:
    text = ", ".join(f"{100 + at} 000 111" for at in range(800))
    assert len(PhoneDetector().detect(text)) > 500
