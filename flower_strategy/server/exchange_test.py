import time
from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from flower_strategy.server.exchange import Patience, drop_late, exchange
from flower_strategy.testing.grids import LocalGrid


class TimedGrid(LocalGrid):
    """Delivers every node's reply, an empty record, after that node's seconds."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__({}, 0)
        self._seconds, self._started = seconds, time.monotonic()

    def _reply(self, message: Message) -> Message:
        return Message(RecordDict({"config": ConfigRecord()}), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        elapsed = time.monotonic() - self._started
        there = [
            name
            for name in message_ids
            if name in self._replies
            and self._seconds[self._replies[name].metadata.src_node_id] <= elapsed
        ]
        return super().pull_messages(there)


def ask(seconds: dict[int, float], patience: Patience) -> tuple[list[int], dict[int, str], float]:
    content = RecordDict({"config": ConfigRecord()})
    messages = [Message(content, message_type="train", dst_node_id=node) for node in seconds]
    missing: dict[int, str] = {}
    gone: dict[int, str] = {}
    grid, started = TimedGrid(seconds), time.monotonic()
    got = [
        reply.metadata.src_node_id
        for reply in exchange(
            grid, messages, patience=patience, missing=missing.__setitem__, gone=gone.__setitem__
        )
    ]
    return sorted(got), missing, time.monotonic() - started


def test_all_replies_are_waited_for_without_a_quorum() -> None:
    got, missing, seconds = ask({1: 0.0, 2: 0.3, 3: 0.6}, Patience(timeout=20))
    assert (got, missing) == ([1, 2, 3], {})
    assert 0.6 <= seconds < 5


def test_the_timeout_ends_the_wait_and_names_who_is_missing() -> None:
    got, missing, seconds = ask({1: 0.0, 2: 99.0}, Patience(timeout=0.5))
    assert got == [1]
    assert missing == {2: "no reply within 0.5 s."}
    assert 0.5 <= seconds < 5


def test_once_the_quorum_is_there_late_replies_have_the_grace_only() -> None:
    late = {1: 0.0, 2: 0.1, 3: 0.7, 4: 99.0}
    got, missing, seconds = ask(late, Patience(timeout=60, quorum=0.5, grace=1.2))
    assert got == [1, 2, 3]
    assert "no reply within 1.2 s of the quorum of 2 of 4" in missing[4]
    assert seconds < 10


def test_what_comes_while_replies_are_taken_in_is_in_time() -> None:
    """Processing the fast node's reply takes longer than the time left for the others."""
    seconds = {1: 0.0, 2: 0.2}
    content = RecordDict({"config": ConfigRecord()})
    messages = [Message(content, message_type="train", dst_node_id=node) for node in seconds]
    missing: dict[int, str] = {}
    got = []
    for reply in exchange(
        TimedGrid(seconds),
        messages,
        patience=Patience(timeout=60, quorum=0.5, grace=0.0),
        missing=missing.__setitem__,
        gone=missing.__setitem__,
    ):
        got.append(reply.metadata.src_node_id)
        time.sleep(0.4)
    assert (got, missing) == ([1, 2], {})


def test_late_replies_are_taken_from_the_superlink_when_they_are_there() -> None:
    grid = TimedGrid({1: 0.0, 2: 0.6, 3: 99.0})
    content = RecordDict({"config": ConfigRecord()})
    messages = [Message(content, message_type="train", dst_node_id=node) for node in (1, 2, 3)]
    late: set[str] = set()
    replies = exchange(
        grid,
        messages,
        patience=Patience(timeout=0.2),
        missing=lambda node, reason: None,
        gone=lambda node, reason: None,
        late=late,
    )
    assert [reply.metadata.src_node_id for reply in replies] == [1]
    assert late == {message.metadata.message_id for message in messages[1:]}
    time.sleep(0.6)
    drop_late(grid, late)
    assert late == {messages[2].metadata.message_id}
    assert set(grid._replies) == late


class SuperLinkAnswers(TimedGrid):
    """Answers for node 2, which is gone, as the SuperLink does: from node 1."""

    def _reply(self, message: Message) -> Message:
        if message.metadata.dst_node_id != 2:
            return super()._reply(message)
        reply = Message(Error(code=4, reason="Node Unavailable"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply


def test_an_error_that_the_superlink_sends_counts_for_the_node_that_is_gone() -> None:
    content = RecordDict({"config": ConfigRecord()})
    messages = [Message(content, message_type="train", dst_node_id=node) for node in (2, 3)]
    missing: dict[int, str] = {}
    gone: dict[int, str] = {}
    replies = exchange(
        SuperLinkAnswers({1: 0.0, 2: 0.0, 3: 0.0}),
        messages,
        patience=Patience(timeout=20),
        missing=missing.__setitem__,
        gone=gone.__setitem__,
    )
    assert [reply.metadata.src_node_id for reply in replies] == [3]
    assert (missing, gone) == ({}, {2: "Node Unavailable"})


class Hostile(TimedGrid):
    """Node 1's message is not delivered, node 2 fails, node 3 claims to be node 4, 5 is garbage."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = list(super().push_messages(messages))
        self._garbage = identifiers[4]
        return ["", *identifiers[1:]]

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node == 2:
            return Message(Error(code=1, reason="out of memory"), reply_to=message)
        reply = super()._reply(message)
        if node == 3:
            reply.metadata.__dict__["_src_node_id"] = 4
        return reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        # As in Flower: messages are deleted first, then decoded.
        replies = list(super().pull_messages(wanted := list(message_ids)))
        if self._garbage in wanted:
            raise ValueError("children do not match")
        return replies


def test_a_hostile_reply_is_only_its_nodes_failure_and_no_part_of_the_quorum() -> None:
    content = RecordDict({"config": ConfigRecord()})
    seconds = {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.5, 5: 0.0, 6: 99.0}
    messages = [Message(content, message_type="train", dst_node_id=node) for node in seconds]
    missing: dict[int, str] = {}
    gone: dict[int, str] = {}
    replies = exchange(
        Hostile(seconds),
        messages,
        patience=Patience(timeout=60, quorum=0.5, grace=0.3),
        missing=missing.__setitem__,
        gone=gone.__setitem__,
    )
    got = [(reply.metadata.src_node_id, reply.has_error()) for reply in replies]
    assert sorted(got) == [(2, True), (4, False)]
    assert gone[1] == "the message could not be delivered."
    assert gone[3] == "its reply came under another node's id."
    assert gone[5].startswith("its reply cannot be decoded: ValueError")
    assert "the quorum of 1 of 2" in missing[6]


@pytest.mark.parametrize(
    ("quorum", "asked", "needed"), [(1.0, 7, 7), (0.5, 7, 4), (0.3, 10, 3), (0.01, 5, 1)]
)
def test_the_quorum_is_a_share_rounded_up(quorum: float, asked: int, needed: int) -> None:
    assert Patience(timeout=1, quorum=quorum).needed(asked) == needed
