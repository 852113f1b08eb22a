"""Grids whose nodes are in this process: Flower's interface without Flower's SuperLink.

Only the transport is a mock: messages are Flower's own, and ``integration_tests`` has the tests
with real SuperLinks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flower_strategy import FloeStrategy, RunConfig, make_initial_arrays
from flower_strategy.client_app import app as floe_app
from flower_strategy.config import ConfigValue
from flower_strategy.simulation import NodeConfig

Tamper = Callable[[int, Message, Message], Message | None]


class InProcessGrid(Grid):
    """A grid with only what a strategy uses.

    Subclasses say which nodes there are, and what happens to messages that are pushed and pulled.
    """

    @staticmethod
    def taken(message: Message) -> str:
        """Give a message its id, as a SuperLink does on receipt; a reply refers to it."""
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


class LocalGrid(InProcessGrid):
    """Runs the ClientApp for every message at once; tests may tamper with the replies.

    Parameters
    ----------
    run_config : Mapping
        The run configuration that the nodes see.
    count : int
        Number of nodes; their ids are consecutive.
    tamper : Callable, optional
        Gets node, message and reply; returns the reply to deliver, or None for none.
    first : int (default: 100)
        Id of the first node; ids differ from run to run.
    node_configs : Sequence[Mapping], optional
        Each node's ``--node-config``, for real nodes; by default nodes are simulated.
    client_app : ClientApp, optional
        What runs on the nodes; Floe's own by default.
    states : dict[int, RecordDict], optional
        Place of a node -> what it keeps between messages, as a SuperNode does: `states` of an
        earlier grid, for nodes that go on in a resumed run. A test removes what a node loses.
    """

    def __init__(
        self,
        run_config: Mapping[str, ConfigValue],
        count: int,
        *,
        tamper: Tamper | None = None,
        first: int = 100,
        node_configs: Sequence[NodeConfig] = (),
        client_app: ClientApp = floe_app,
        states: dict[int, RecordDict] | None = None,
    ) -> None:
        self.nodes = {first + index: index for index in range(count)}
        self.online = set(self.nodes)
        self.sent: list[Message] = []
        self._run_config = dict(run_config)
        self._tamper = tamper
        self._node_configs: Sequence[NodeConfig] = node_configs or [
            {"partition-id": index, "num-partitions": count, "simulated": True}
            for index in range(count)
        ]
        self._replies: dict[str, Message] = {}
        self._client_app = client_app
        self.states = {} if states is None else states

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            self.sent.append(message)
            identifier = self.taken(message)
            identifiers.append(identifier)
            reply: Message | None = self._reply(message)
            if self._tamper is not None and reply is not None:
                reply = self._tamper(message.metadata.dst_node_id, message, reply)
            if reply is not None:
                self._replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.online)

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        place = self.nodes[node]
        context = Context(
            run_id=1,
            node_id=node,
            node_config=dict(self._node_configs[place]),
            state=RecordDict({**self.states.get(place, RecordDict())}),
            run_config=self._run_config,
        )
        try:
            reply = self._client_app(message, context)
            self.states[place] = context.state
            return reply
        # As in Flower: whatever the client app raises becomes an error reply.
        except Exception as error:  # noqa: BLE001
            said = f"\nException ClientAppException occurred. Message: {error}"
            reason = f"<class 'ClientAppException'>:<'{said}'>"
            return Message(Error(code=2, reason=reason), reply_to=message)


def start_run(
    run_config: Mapping[str, ConfigValue],
    grid: Grid,
    *,
    kind: type[FloeStrategy] = FloeStrategy,
    after_round: Callable[[int], None] | None = None,
) -> tuple[FloeStrategy, Result]:
    """Run a strategy as the ServerApp does; return it and its result.

    Parameters
    ----------
    run_config : Mapping
        The run configuration.
    grid : Grid
        The nodes.
    kind : type[FloeStrategy], optional
        A strategy class with some steps overridden.
    after_round : Callable[[int], None], optional
        Called with the number of every finished round.
    """

    def ended(number: int, arrays: ArrayRecord) -> None:
        if after_round is not None:
            after_round(number)

    config = RunConfig.from_dict(run_config)
    strategy = kind.from_config(config)
    result = strategy.start(
        grid,
        make_initial_arrays(strategy),
        num_rounds=config.rounds,
        timeout=config.round_timeout,
        evaluate_fn=ended,
    )
    return strategy, result
