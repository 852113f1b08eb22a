import pytest

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detectors.contact import EMAIL, PhoneDetector, is_grouped, is_planned

BY_MAIL = Gate(detectors=("email",), timeout_s=30)


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


@pytest.mark.parametrize(
    "text",
    [
        "At which point do we stop, and at what point in the day?",
        "Stop at every point it touches, or at the last point no one sees.",
        "The force at each point us or them.",
        "He looked at the dot in the middle; I work at Lumen dot com since May.",
        "water at boiling point is hot",
        "She sold it at gun point to me",
    ],
)
def test_an_at_and_a_point_are_words(text: str) -> None:
    assert BY_MAIL.decide(text).decision is Decision.CLEAR


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("an mia punkt koch at beispiel punkt de, bitte", "mia punkt koch at beispiel punkt de"),
        ("luc arobase exemple point be", "luc arobase exemple point be"),
        (
            "to ana dot li at mail dot example dot co dot uk.",
            "ana dot li at mail dot example dot co dot uk",
        ),
        ("ana@\nexample.net", "ana@\nexample.net"),
        ("ana @ example . net", "ana @ example . net"),
    ],
)
def test_a_dictated_address_is_found_whole(text: str, address: str) -> None:
    verdict = BY_MAIL.decide(text)
    assert [text[span.start : span.end] for span in verdict.spans] == [address]


@pytest.mark.parametrize(
    "text",
    [
        "x = 5\n\n@bot.command()\nasync def ping(ctx): ...",
        "value: int\n@cached.property\ndef f(self): ...",
        "git remote add origin git@gitlab.com:group/sub/project.git",
        "hg clone ssh://hg@bitbucket.org/a/b",
        "y = W @ x.T + (A @ B.transpose(1, 0))",
        "<img src='logo@2x.png'> and photo@3x.jpg",
        "npm i left-pad@1.3.0-beta.2 tool@v2.x",
        'puts "#{@account.owner}" if x==@account.id',
        "return@forEach.apply { this@MainActivity.finish() }",
        "systemctl restart getty@tty1.service",
        "postgresql://user:password@db.example.com:5432/x",
        "thanks to @ana.lima and to @joe.smith",
    ],
)
def test_an_at_sign_in_a_program_is_no_address(text: str) -> None:
    assert BY_MAIL.decide(text).decision is Decision.CLEAR


def test_odd_but_real_addresses() -> None:
    for address in ("ann@example.photography", "o'neil_@example.md", "x-@xn--bcher-kva.example"):
        (span,) = EMAIL.detect(f"from {address}--")
        assert (span.start, span.end) >= (5, 5 + len(address))
