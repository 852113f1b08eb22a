"""The third stage of a round: devices measure the loss of what would be exported."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flower_strategy.server.replies import ReplyError, read_evaluate_reply
from flower_strategy.server.round import Stages

_MOST_HELD_OUT = 9  # per training example: held-out is 0.9 at most
_SAMPLE = 1  # tells the draw of devices that evaluate from that of devices that train


class EvaluationStage(Stages):
    """The part of `FloeStrategy` that evaluates. Every step can be overridden."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message per device that evaluates: its cluster's adapter, as exported.

        `arrays` is empty: the banks are in ``state``. So what is measured is what is exported, also
        on devices that train at another rank or not at all.
        """
        state, online = self.state, set(grid.get_node_ids())
        fraction = self.participation.fraction_evaluate
        if not fraction:
            return []
        chosen = state.sample(
            [node for node in state.profiles if node in online],
            fraction,
            (self.training.seed, server_round, _SAMPLE),
        )
        homes = {node: state.cluster_of(node).name for node in chosen}
        adapters = {name: state.adapter(name, self.export_rank) for name in set(homes.values())}
        return self.envelope.adapter_messages(
            MessageType.EVALUATE,
            {node: adapters[name] for node, name in homes.items()},
            server_round=server_round,
            extra=config,
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the held-out loss per cluster, ``<cluster>/held-out-loss``, and over all."""
        for message in replies:
            node = message.metadata.src_node_id
            try:
                if node not in self.state.profiles:
                    raise ReplyError("it was not asked to evaluate in this round.")
                reply = read_evaluate_reply(message, self.rules, most_tokens=self.most_tokens(node))
            except ReplyError as error:
                self._refuse(node, "evaluate", error)
                continue
            device = self._device(node)
            device.held_out_loss, device.held_out_tokens = reply.loss, reply.num_tokens
        return self._record.conclude_evaluation()

    def most_tokens(self, node: int) -> int:
        """Return the tokens that a device's held-out loss counts for at most.

        A device keeps out at most nine examples for each that it trains on (``held-out``), and an
        example has at most ``max-length`` tokens.
        """
        examples = _MOST_HELD_OUT * self.state.profiles[node].num_examples
        if self.training.eval_examples:
            examples = min(examples, self.training.eval_examples)
        return examples * self.training.max_length
