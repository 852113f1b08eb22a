from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from floe_plugins.middleware.session_store import Name, SessionStore
from floe_plugins.middleware.session_wire import pack


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def name(number: int, *, owner: bytes = b"a") -> Name:
    return owner, b"client", number


def test_a_session_gives_its_beginning_and_nothing_beyond_it() -> None:
    store = SessionStore(most_sessions=3, most_ids=100, idle_s=10)
    store.put(name(1), pack([5, 6, 7]))
    assert store.beginning(name(1), 2) == pack([5, 6])
    assert store.beginning(name(1), 3) == pack([5, 6, 7])
    assert store.beginning(name(1), 4) is None
    assert store.beginning(name(2), 1) is None
    assert store.beginning(name(1, owner=b"b"), 1) is None
    store.put(name(1), pack([8]))
    assert store.beginning(name(1), 2) is None
    assert store.ids == 1


def test_the_one_that_was_not_used_for_longest_goes_first() -> None:
    store = SessionStore(most_sessions=2, most_ids=100, idle_s=10)
    for number in (1, 2):
        store.put(name(number), pack([number]))
    assert store.beginning(name(1), 1)
    store.put(name(3), pack([3]))
    assert store.beginning(name(2), 1) is None
    assert store.beginning(name(1), 1)


def test_ids_of_all_sessions_together_are_bounded() -> None:
    store = SessionStore(most_sessions=10, most_ids=5, idle_s=10)
    store.put(name(1), pack([1, 2, 3]))
    store.put(name(2), pack([1, 2, 3]))
    assert (len(store), store.ids) == (1, 3)
    store.put(name(3), pack(range(6)))
    assert (len(store), store.ids) == (0, 0)


def test_idle_sessions_are_gone() -> None:
    clock = Clock()
    store = SessionStore(most_sessions=10, most_ids=50, idle_s=10, clock=clock)
    store.put(name(1), pack([1]))
    clock.now += 6
    store.put(name(2), pack([2]))
    assert store.beginning(name(1), 1)
    clock.now += 9
    assert store.expire() == 1
    assert len(store) == 2
    clock.now += 1
    assert store.expire() is None
    assert (len(store), store.ids) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 5))))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[int, int, int]]) -> None:
    clock = Clock()
    store = SessionStore(most_sessions=3, most_ids=40, idle_s=7, clock=clock)
    for number, count, seconds in steps:
        store.put(name(number), pack(range(count)))
        assert store.beginning(name(number), count) == pack(range(count))
        assert len(store) <= 3
        assert store.ids <= 40
        clock.now += seconds
