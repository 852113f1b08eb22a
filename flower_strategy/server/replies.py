"""Reads the devices' replies; an invalid reply costs only itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from floe_plugins.errors import FloeError
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.messages import (
    ARRAYS_KEY,
    BEGAN_KEY,
    KEEPS,
    METRICS_KEY,
    TRAINING_SECONDS_KEY,
    read_adapter,
)
from flower_strategy.profile import DeviceProfile
from flower_strategy.settings import ReplyRules

_LARGEST_LOSS = 1e6
_MOST_SECONDS = 1e7
# Weighted by the most examples accepted, sums of such factors stay far below float32's maximum.
_LARGEST_FACTOR = 1e9


class ReplyError(FloeError, ValueError):
    """A reply cannot be used; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Sent:
    """What a device was sent to train.

    Attributes
    ----------
    cluster : str
        Its cluster.
    adapter : AdapterState
        The adapter sent, as the device reads it: at its rank, or a higher one if it keeps state.
    rank : int
        The rank that it trains at.
    most_examples : int
        Examples in its profile.
    length : float
        Expected norm of the requested update of this adapter, see `asked_length`.
    move : float
        The sum of the learning rates of the requested steps.
    steps : int
        The requested steps; a reply counts for no more.
    usual_steps : int
        Steps that the settings name, for a client that does not say how many it took.
    highest, highest_move : float
        Length and move with the run's highest learning rate in every step.
    began : int
        The round in which the device began its own adapter; 0 if the server does not know.
    """

    cluster: str
    adapter: AdapterState
    most_examples: int
    length: float
    rank: int
    move: float = 0.0
    highest: float = 0.0
    highest_move: float = 0.0
    steps: int = 1
    usual_steps: int = 1
    began: int = 0


@dataclass(frozen=True, eq=False)
class TrainReply:
    """A valid training reply.

    Attributes
    ----------
    adapter : AdapterState
        The trained adapter: the device's own, or the one sent if the device keeps no state.
    arrays : ArrayRecord
        The same, as it came.
    num_examples : int
        The device's examples, at most those in its profile.
    loss : float
        Mean training loss.
    seconds : float
        Download, training and upload on the device's clock.
    training_seconds : float or None
        Training alone; None if the client does not say.
    steps : int
        Steps that it took, at most those requested.
    began : int or None
        The round in which it began its own adapter; None if it keeps no state.
    """

    adapter: AdapterState
    arrays: ArrayRecord
    num_examples: int
    loss: float
    seconds: float
    steps: int
    began: int | None
    training_seconds: float | None = None


@dataclass(frozen=True)
class EvaluateReply:
    """A valid evaluation reply.

    Attributes
    ----------
    loss : float
        Held-out loss, nats per response token.
    num_tokens : int
        Its weight.
    validation_loss : float or None (default: None)
        The loss on validation examples; None from a device that has none.
    validation_tokens : int (default: 0)
        Its weight.
    keeps : str (default: "")
        The model that the device keeps, one of `KEEPS`; empty if it was not asked.
    """

    loss: float
    num_tokens: int
    validation_loss: float | None = None
    validation_tokens: int = 0
    keeps: str = ""


def read_profile(message: Message) -> DeviceProfile:
    """Return a device's profile.

    Raises
    ------
    ReplyError
        The reply is an error, or holds no valid profile.
    """
    _no_error(message)
    try:
        return DeviceProfile.from_record(message.content)
    # A node can send anything, and decoding can raise anything; the run must survive it.
    except Exception as error:
        raise ReplyError(str(error) or repr(error)) from error


def read_train_reply(
    message: Message, sent: Sent, rules: ReplyRules, *, server_round: int = 1
) -> TrainReply:
    """Return a training reply that fits what was sent.

    Parameters
    ----------
    message : Message
        The reply.
    sent : Sent
        What the device was sent.
    rules : ReplyRules
        Bounds on its claims.
    server_round : int (default: 1)
        The round.

    Raises
    ------
    ReplyError
        The reply is an error; its layers, shapes or scaling differ from those sent; a number is
        not finite; a count of examples or steps is not a positive whole number within bounds; or it
        goes on with an adapter that the server does not know.
    """
    _no_error(message)
    try:
        metrics = message.content.metric_records[METRICS_KEY]
        scaling = _finite(metrics, "scaling")
        arrays = message.content.array_records[ARRAYS_KEY]
        adapter = read_adapter(arrays, scaling=scaling)
    # As in `read_profile`.
    except Exception as error:
        raise ReplyError(_reason(error)) from error
    expected = sent.adapter
    if adapter.layers.keys() != expected.layers.keys():
        odd = sorted(adapter.layers.keys() ^ expected.layers.keys())
        raise ReplyError(f"{len(odd)} layers differ from those sent, among them {odd[0]}.")
    hint = ""
    if sent.rank != expected.rank == adapter.rank:
        hint = " A client that keeps no state says so: client.profile(..., keeps_state=False)."
    for name, factors in adapter.layers.items():
        rows, columns = expected.layers[name].shape
        asked = (rows, sent.rank), (sent.rank, columns)
        if (factors.b.shape, factors.a.shape) != asked:
            raise ReplyError(
                f"{name} has factors {factors.b.shape} and {factors.a.shape}, asked for were "
                f"{asked[0]} and {asked[1]}.{hint}"
            )
        for factor in (factors.a, factors.b):
            if not np.isfinite(factor).all():
                raise ReplyError(f"{name} holds numbers that are not finite.")
            if np.abs(factor).max(initial=0.0) > _LARGEST_FACTOR:
                raise ReplyError(f"{name} holds numbers above {_LARGEST_FACTOR:g}.")
    if not math.isclose(scaling, expected.scaling, rel_tol=1e-6):
        raise ReplyError(f"scaling is {scaling}, sent was {expected.scaling}.")
    try:
        loss, seconds = _finite(metrics, "train-loss"), _finite(metrics, "seconds")
        examples = _finite(metrics, "num-examples")
        trained = None
        if TRAINING_SECONDS_KEY in metrics:
            trained = _finite(metrics, TRAINING_SECONDS_KEY)
    except (KeyError, OverflowError) as error:
        raise ReplyError(_reason(error)) from error
    if not (0 <= loss <= _LARGEST_LOSS and 0 <= seconds <= _MOST_SECONDS):
        raise ReplyError(f"train-loss is {loss:g} after {seconds:g} s; that cannot be.")
    if trained is not None and not 0 <= trained <= _MOST_SECONDS:
        raise ReplyError(f"training-seconds is {trained:g}; that cannot be.")
    if not 1 <= examples <= rules.max_examples or examples != int(examples):
        raise ReplyError(
            f"num-examples is {examples:g}; it must be a whole number from 1 to "
            f"{rules.max_examples}."
        )
    began = _whole(metrics, BEGAN_KEY, least=1)
    if began not in (None, sent.began, server_round):
        known = sent.began or "none"
        raise ReplyError(f"its adapter began in round {began}; the server knows {known}.")
    taken = _whole(metrics, "steps", least=1)
    return TrainReply(
        adapter=adapter,
        arrays=arrays,
        num_examples=min(int(examples), sent.most_examples),
        loss=loss,
        seconds=seconds,
        steps=min(sent.usual_steps if taken is None else taken, sent.steps),
        began=began,
        training_seconds=trained,
    )


def read_evaluate_reply(
    message: Message, rules: ReplyRules, *, most_tokens: int | None = None
) -> EvaluateReply:
    """Return an evaluation reply.

    Parameters
    ----------
    message : Message
        The reply.
    rules : ReplyRules
        Bounds on its claims.
    most_tokens : int, optional
        Most tokens that each of its losses is weighted with; a larger count is capped.

    Raises
    ------
    ReplyError
        The reply is an error, or its numbers are missing or not finite.
    """
    _no_error(message)
    try:
        metrics = message.content.metric_records[METRICS_KEY]
        loss, tokens = _finite(metrics, "held-out-loss"), _finite(metrics, "num-tokens")
        measured = (0.0, 0.0)
        if "validation-loss" in metrics:
            measured = _finite(metrics, "validation-loss"), _finite(metrics, "validation-tokens")
    # As in `read_profile`.
    except Exception as error:
        raise ReplyError(_reason(error)) from error
    if not 0 <= loss <= _LARGEST_LOSS or not 1 <= tokens <= 1e4 * rules.max_examples:
        raise ReplyError(f"held-out-loss is {loss:g} over {tokens:g} tokens.")
    validation, weight = measured
    if not 0 <= validation <= _LARGEST_LOSS or not 0 <= weight <= 1e4 * rules.max_examples:
        raise ReplyError(f"validation-loss is {validation:g} over {weight:g} tokens.")
    place = _whole(metrics, "keeps", least=0)
    if place is not None and place >= len(KEEPS):
        raise ReplyError(f"keeps is {place}; the models to keep are 0 to {len(KEEPS) - 1}.")
    return EvaluateReply(
        loss,
        min(int(tokens), most_tokens or int(tokens)),
        validation if weight >= 1 else None,
        min(int(weight), most_tokens or int(weight)),
        "" if place is None else KEEPS[place],
    )


def _no_error(message: Message) -> None:
    if message.has_error():
        raise ReplyError(_last_line(message.error.reason or "") or f"error {message.error.code}")


def _finite(metrics: MetricRecord, key: str) -> float:
    value = metrics[key]
    if isinstance(value, (list, bool)) or not math.isfinite(value):
        raise ReplyError(f"{key} is {value}; one finite number is needed.")
    return float(value)


def _whole(metrics: MetricRecord, key: str, *, least: int) -> int | None:
    """Return a whole number; None where the reply does not have it."""
    if key not in metrics:
        return None
    value = _finite(metrics, key)
    if value != int(value) or value < least:
        raise ReplyError(f"{key} is {value:g}; it must be a whole number from {least}.")
    return int(value)


def _last_line(reason: str) -> str:
    """Return the sentence at the end of a traceback, without Flower's wrapping."""
    lines = [line.strip() for line in reason.strip().removesuffix("'>").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last.rpartition("occurred. Message: ")[2]


def _reason(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error) or repr(error)
