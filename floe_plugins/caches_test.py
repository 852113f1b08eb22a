from __future__ import annotations

from floe_plugins.caches import Recent


def test_what_is_used_stays_and_the_rest_goes() -> None:
    kept: Recent[int, str] = Recent(4)
    for key in range(100):
        kept.put(key, str(key))
        assert kept.get(0) == "0"
    assert (kept.get(99), kept.get(50)) == ("99", None)
    held = [key for key in range(100) if kept.get(key) is not None]
    assert len(held) <= 8
