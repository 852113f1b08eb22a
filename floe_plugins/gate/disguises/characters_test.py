import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from floe_plugins.gate.disguises.characters import LATIN, normalised

NASTY = st.text(
    alphabet=st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\u200b\u200d\u00ad\ufeff４１－＠．ﬁ①٣é\u0301½ 1a@"),
    )
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("４１１１", "4111"),
        ("٤١١١", "4111"),
        ("𝟒𝟏𝟏𝟏", "4111"),
        ("4\u200b1\u00ad1\u20601", "4111"),
        ("4\u03011\u20dd11", "4111"),
        ("joe＠example．org", "joe@example.org"),
        ("joe@example。org", "joe@example.org"),
        ("555‑0143", "555-0143"),
        ("555\u00a00143", "555 0143"),
        ("4\x001\x1b11", "4111"),
        ("\u3164a\u2800b", "ab"),
    ],
)
def test_disguises_come_off(text: str, expected: str) -> None:
    view = normalised(text)
    assert view is not None
    assert view.text == expected


@pytest.mark.parametrize("text", ["", "plain\ttext\r\n", "naïve café", "日本語", "ščř"])
def test_ordinary_text_stays_itself(text: str) -> None:
    assert normalised(text) is None


@given(NASTY)
@example("0Α")
def test_every_stretch_has_its_place_in_the_original(text: str) -> None:
    view = normalised(text)
    if view is None:
        return
    last = 0
    for place in range(len(view.text)):
        start, end = view.original(place, place + 1)
        assert end == start + 1
        assert last <= start < len(text)
        last = start
        single = normalised(text[start:end])
        seen = text[start:end] if single is None else single.text
        # Whether a look-alike is replaced depends on its neighbours as well.
        alike = "".join(LATIN.get(character, "") for character in seen)
        assert view.text[place] in seen + alike


def test_expansions_point_at_the_one_character() -> None:
    view = normalised("a ﬁ b")
    assert view is not None
    assert view.text == "a fi b"
    assert view.original(2, 4) == (2, 3)
    assert view.original(5, 6) == (4, 5)


def test_time_is_linear() -> None:
    def seconds(text: str) -> float:
        started = time.process_time()
        normalised(text)
        return time.process_time() - started

    # Twenty times the text must not need a hundred times as long.
    assert seconds("４\u200b" * 200_000) < 100 * max(seconds("４\u200b" * 10_000), 1e-3)
