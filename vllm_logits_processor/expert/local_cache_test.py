"""The tree against a simple reference: the set of all prefixes of the texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_logits_processor.expert.local_cache import NOWHERE, PrefixTree

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=40)


def known(tree: PrefixTree, text: list[int]) -> list[int]:
    places: list[int] = []
    tree.follow(places, text)
    return places


def take_in(tree: PrefixTree, text: list[int]) -> list[int]:
    places = known(tree, text)
    tree.extend(places, text[len(places) :])
    return places


@given(texts=TEXTS)
def test_texts_share_what_they_have_in_common_and_nothing_else(texts: list[list[int]]) -> None:
    tree = PrefixTree(1000)
    tree.begin_call()
    of: dict[int, tuple[int, ...]] = {}
    for text in texts:
        for end, place in enumerate(take_in(tree, text), start=1):
            assert of.setdefault(place, tuple(text[:end])) == tuple(text[:end])
    assert len(set(of.values())) == len(of)
    assert NOWHERE not in of
    assert tree.free == 999 - len(of)


@given(texts=TEXTS)
def test_what_is_known_stays_whole_when_room_is_made(texts: list[list[int]]) -> None:
    """With room for hardly more than one text, a place stands for one prefix, and keeps it."""
    tree = PrefixTree(16)
    of: dict[int, tuple[int, ...]] = {}
    for text in texts:
        tree.begin_call()
        before = known(tree, text)
        assert [of[place] for place in before] == [
            tuple(text[: end + 1]) for end in range(len(before))
        ]
        places = take_in(tree, text)
        assert len(set(places)) == len(text)
        of.update({place: tuple(text[: at + 1]) for at, place in enumerate(places)})
        assert known(tree, text) == places


def test_the_text_of_no_use_for_longest_makes_room() -> None:
    tree = PrefixTree(8)
    for text in ([1, 2, 3], [4, 5, 6], [1, 2, 3]):
        tree.begin_call()
        take_in(tree, text)
    tree.begin_call()
    take_in(tree, [7, 8])
    assert len(known(tree, [1, 2, 3])) == 3
    assert len(known(tree, [4, 5, 6])) < 3


def test_texts_of_one_call_must_fit() -> None:
    tree = PrefixTree(4)
    tree.begin_call()
    take_in(tree, [1, 2])
    with pytest.raises(MemoryError):
        take_in(tree, [3, 4])
    tree.forget_all()
    assert known(tree, [1, 2]) == []
    assert tree.free == 3
