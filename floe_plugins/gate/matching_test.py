from __future__ import annotations

import re

from floe_plugins.gate.matching import any_of


def test_any_of_some_words_is_found_where_one_of_them_is() -> None:
    words = ("pass", "passport", "pin code", "a.b", "né", "pi")
    pattern = any_of(words)
    listed = re.compile("|".join(map(re.escape, words)))
    for text in ("my passport", "pa ss", "pin", "p in", "a+b a.b", "born: né", "", "PASS"):
        assert (pattern.search(text) is None) == (listed.search(text) is None), text


def test_any_of_one_word() -> None:
    assert any_of(["key"]).search("a key") is not None
    assert any_of(["key"]).search("a ke y") is None
