"""Values hidden in a text that are found; `docs/how-to/gate.md` lists those that are not."""

from __future__ import annotations

import base64
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from floe_plugins.gate.disguises import views_of
from floe_plugins.gate.disguises.view import Rewriting, View, rewritten

CARD = "4111 1111 1111 1111"
MAIL = "joe.bloggs@example.org"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


# Disguised text, and a string that its last view must contain.
DISGUISES = {
    "homoglyphs": ("jоe.blоggs@exаmple.org", MAIL),
    "greek homoglyphs": ("jοe.blοggs@example.οrg", MAIL),
    "a word of homoglyphs": ("write to аре@example.org", "ape@example.org"),
    "small capitals": ("joe.bloggs@exᴀmple.org", "exAmple.org"),
    "zero width": ("joe\u200b.bloggs\u2060@exam\ufeffple.org", MAIL),
    "soft hyphen": ("joe.blo\u00adggs@example.org", MAIL),
    "full width": ("ｊｏｅ．ｂｌｏｇｇｓ＠ｅｘａｍｐｌｅ．ｏｒｇ", MAIL),
    "keycaps": ("4\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e31", "4111"),
    "spelled out": ("four" + " one" * 15, "4111111111111111"),
    "spelled out, with commas": ("Four, one, one, one. " + "one, " * 12, "4111111111111111"),
    "double and triple": ("four triple one double one double one" + " one" * 8, "4111111111111111"),
    "teens and tens": ("forty-one" + " eleven" * 7, "4111111111111111"),
    "german": ("vier" + " eins" * 15, "4111111111111111"),
    "french": ("quatre" + " un" * 15, "4111111111111111"),
    "chinese": ("四" + "一" * 15, "4111111111111111"),
    "words and digits": ("four one 1 one 1111 1111 one one one one", "4111111111111111"),
    "spaced digits": (" ".join("4111111111111111"), "4111111111111111"),
    "dashed digits": ("-".join("4111111111111111"), "4111111111111111"),
    "digits with anything between": ("4 | 1 | 1 | 1" + " | 1" * 12, "4111111111111111"),
    "pairs": ("41 11 11 11 11 11 11 11", "4111111111111111"),
    "triples": ("411-111-111-111-111-1", "4111111111111111"),
    "odd separators": ("4111 ~ 1111 ~ 1111 ~ 1111", CARD),
    "letters for digits": ("4lll l1Il 1l1l 1111", CARD),
    "spaced letters": (" ".join(MAIL), MAIL),
    "at and dot": ("joe dot bloggs at example dot org", MAIL),
    "brackets": ("joe.bloggs[at]example[dot]org", MAIL),
    "round brackets": ("joe.bloggs (at) example (dot) org", MAIL),
    "loud": ("joe.bloggs AT example DOT org", MAIL),
    "spaces around the marks": ("joe.bloggs @ example . org", MAIL),
    "spanish": ("joe.bloggs arroba example punto org", MAIL),
    "at a provider": ("joe.bloggs at gmail.com", "joe.bloggs@gmail.com"),
    "base64": (b64(MAIL), MAIL),
    "base64 without padding": (b64(MAIL).rstrip("="), MAIL),
    "base64, url-safe": (base64.urlsafe_b64encode(f"?>?>{MAIL}".encode()).decode(), MAIL),
    "base64 behind something": ("k3y" + b64(MAIL), MAIL),
    "base64, wrapped": ("\n".join((b64(MAIL)[:20], b64(MAIL)[20:])), MAIL),
    "base64 twice": (b64(b64(MAIL)), MAIL),
    "hexadecimal": (MAIL.encode().hex(), MAIL),
    "url encoding": (quote(MAIL), MAIL),
    "url encoding of all": (percent(MAIL), MAIL),
    "url encoding twice": (quote(percent(MAIL)), MAIL),
    "entities": ("joe.bloggs&#64;example&period;org", MAIL),
    "escapes": (r"joe.bloggs\u0040example\x2eorg", MAIL),
    "base64 of full width": (b64("４１１１ １１１１ １１１１ １１１１"), CARD),
    "turns": ("user\n4111 1111 1\nassistant\n111 1111\n", "4111 1111 1111 1111"),
}


@pytest.mark.parametrize(("disguise", "plain"), DISGUISES.values(), ids=DISGUISES.keys())
def test_disguises_come_off_and_point_back(disguise: str, plain: str) -> None:
    text = f"see: {disguise} :end"
    for view in views_of(text):
        place = view.text.find(plain)
        if place >= 0:
            start, end = view.original(place, place + len(plain))
            assert text[start:end].strip(" .,") in disguise
            assert len(text[start:end]) >= 2
            return
    raise AssertionError([view.text for view in views_of(text)])


ORDINARY = [
    "What is the capital of France, and who built its tower in 1889?",
    "The internationalization of uncharacteristically long words is no encoding.",
    "It costs 100% of 50 dollars & more, at noon.",
    "for i in range(10):\n    print(values[i])\n",
    "Привет, мир! Как дела?",
    "One or two of the three.",
    "He ran 3 miles in 24 minutes, 4 times a week.",
    "/usr/local/lib/python3.11/site-packages/numpy",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_has_no_views(text: str) -> None:
    assert views_of(text) == ()


@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            st.sampled_from(
                ["４", "\u200b", " one", " at ", " dot ", "%40", "&#64;", "4 1 1", "е"]
            ),
            st.sampled_from([b64(MAIL), " 1", "-1", "\n", "1l1l", " @ "]),
        ),
        max_size=30,
    )
)
@settings(deadline=None)
def test_every_stretch_of_every_view_has_its_place(pieces: list[str]) -> None:
    text = "".join(pieces)
    for view in views_of(text):
        last = 0
        for place in range(len(view.text)):
            start, end = view.original(place, place + 1)
            assert 0 <= start < end <= len(text)
            assert start >= last
            last = start


def test_a_chain_of_views_leads_back_to_the_original() -> None:
    def upper(text: str, parent: View | None) -> View | None:
        rewriting = Rewriting(text, parent)
        rewriting.replace(1, 2, "BBB")
        return rewriting.view()

    def same(text: str, parent: View | None) -> View | None:
        return None

    view = rewritten("abc", None, (upper, same, upper))
    assert view is not None
    assert view.text == "aBBBBBc"
    assert view.original(1, 6) == (1, 2)
    assert view.original(6, 7) == (2, 3)
    assert rewritten("abc", view, (same,)) is None


HOSTILE = (
    *(
        "one ",
        "one-",
        "a b ",
        "4 ",
        "4-",
        "41 ",
        "411|",
        " at ",
        " dot ",
        "a at ",
        "@ ",
        ". ",
        "[at",
    ),
    *("%4", "%41", "&#4", "&amp;", "\\u00", "A" * 40 + "\n", "QUJD", "ab", "1l", "о", "оa "),
    *("one two double ", "forty ", "\nuser\n", "a.b.", "_", "4  ", "(((", "４", "e\u0301", "一"),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_views_need_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size] + "x!"
        started = time.process_time()
        views_of(text)
        return time.process_time() - started

    seconds(1_000)
    # Quadratic time would be a factor of 256.
    assert seconds(64_000) < 64 * max(seconds(4_000), 2e-3)
