"""What grids share whose nodes are in this process: Flower's interface without Flower's SuperLink.

A mock of the transport alone: messages are Flower's own, and tests of real SuperLinks stand in
``integration_tests``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid


class InProcessGrid(Grid):
    """A grid without what a strategy does not use of it.

    What inherits from it says which nodes there are, and what becomes of messages that are pushed
    and pulled.
    """

    @staticmethod
    def taken(message: Message) -> str:
        """Give a message its id, as a SuperLink does when it takes it; a reply refers to it."""
        identifier = str(uuid.uuid4())
        message.metadata.__dict__["_message_id"] = identifier
        return identifier

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> object:  # type: ignore[override]
        raise NotImplementedError

    def create_message(self, *arguments: object, **options: object) -> Message:
        raise NotImplementedError
