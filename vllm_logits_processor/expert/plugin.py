"""Experts of plugins, isolated so that none can block or end a decoding step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from floe_plugins.errors import ConfigError, FloeError, PluginError
from floe_plugins.hooks import RESERVED, BuiltExpert, ExpertKind
from floe_plugins.isolation import Caller, PluginCallError
from floe_plugins.manager import Registered
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.protocol import (
    MOST_LOGPROB,
    Continuation,
    ExpertError,
    ExpertReply,
    check_tokens,
    checked,
)

T = TypeVar("T")

_HOOK = "floe_register_experts"


class PluginExpert:
    """A plugin's expert: its errors become `ExpertError`, and its answers are checked.

    The plugin is called in its own thread. One that blocks is merely late, like any expert, and is
    handled by the deadline and the breaker.

    Parameters
    ----------
    plugin, name : str
        The plugin, and the name of the kind.
    vocabulary : int
        Number of the expert's tokens.
    end_ids : int32 array
        The expert's end tokens.
    """

    def __init__(
        self,
        expert: BuiltExpert,
        *,
        plugin: str,
        name: str,
        vocabulary: int,
        end_ids: TokenArray,
    ) -> None:
        self._expert = expert
        self._vocabulary, self._end_ids = vocabulary, end_ids
        self._caller = Caller(hook=_HOOK, plugin=plugin, name=name, timeout_s=None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"floe-expert-{name}")

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Begin a call; see `Expert.start`."""
        count = len(prompts)
        return self._begin(
            lambda: self._expert.start(
                [list(prompt) for prompt in prompts], model=model, steps=steps
            ),
            lambda reply: self._checked(reply, count=count, steps=steps),
        )

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Begin to score a text; see `Expert.score`."""
        return self._begin(lambda: self._expert.score(prompt, model=model), _checked_score)

    def close(self) -> None:
        """Close the plugin's expert; errors are counted and dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with suppress(PluginCallError):
            self._caller.call(self._expert.close)

    def _begin(self, start: Callable[[], Future[Any]], check: Callable[[Any], T]) -> Future[T]:
        """Start a call in the plugin's thread; pass on its checked result."""
        ours: Future[T] = Future()

        def pass_on(theirs: Future[Any]) -> None:
            if theirs.cancelled():
                ours.cancel()
                return
            try:
                answer = self._caller.call(lambda: check(theirs.result()), passing=(ExpertError,))
            except (PluginCallError, ExpertError) as error:
                _set(ours, error=self._as_expert_error(error))
            else:
                _set(ours, answer=answer)

        def begin() -> None:
            if ours.cancelled():
                return
            try:
                theirs = self._caller.call(lambda: _is_future(start()), passing=(ExpertError,))
            except (PluginCallError, ExpertError) as error:
                _set(ours, error=self._as_expert_error(error))
                return
            ours.add_done_callback(lambda done: theirs.cancel() if done.cancelled() else None)
            theirs.add_done_callback(pass_on)

        try:
            self._thread.submit(begin)
        except RuntimeError:  # closed
            ours.cancel()
        return ours

    def _as_expert_error(self, error: PluginCallError | ExpertError) -> ExpertError:
        if isinstance(error, ExpertError):
            return error
        return ExpertError(f"The expert's plugin failed ({error.reason}).")

    def _checked(self, reply: object, *, count: int, steps: int) -> ExpertReply:
        if not isinstance(reply, ExpertReply) or len(reply.continuations) != count:
            raise ExpertError(f"The expert's plugin gave no reply to {count} prompts.")
        continuations = []
        for each in reply.continuations:
            tokens = np.asarray(each.tokens)
            if tokens.ndim != 1 or tokens.dtype.kind != "i":
                raise ExpertError(
                    f"The expert's plugin gave {tokens.size} tokens of type {tokens.dtype} and "
                    f"shape {tokens.shape} for a prompt; accepted are integers, shape (steps,)."
                )
            check_tokens(
                tokens,
                distributions=len(each.top.token_ids),
                steps=steps,
                vocabulary=self._vocabulary,
            )
            top = checked(each.top, vocabulary=self._vocabulary, end_ids=self._end_ids)
            continuations.append(Continuation(tokens=tokens.astype(np.int64, copy=False), top=top))
        return ExpertReply(
            continuations=tuple(continuations),
            sent_bytes=int(reply.sent_bytes),
            received_bytes=int(reply.received_bytes),
        )


def plugin_expert(
    kind: str,
    config: ExpertConfig,
    kinds: Mapping[str, Registered[ExpertKind]],
    *,
    vocabulary: int,
    end_ids: TokenArray,
) -> PluginExpert:
    """Return the expert of the kind that a configuration names.

    Parameters
    ----------
    config : ExpertConfig
        Passed on to the plugin.
    vocabulary, end_ids
        See `PluginExpert`.

    Raises
    ------
    ConfigError
        No plugin registers the kind.
    FloeError
        The plugin cannot build an expert from this configuration.
    """
    found = kinds.get(kind)
    if found is None:
        accepted = ", ".join([*sorted(RESERVED[_HOOK]), *sorted(kinds)])
        raise ConfigError(f"floe: expert.kind is {kind!r}; accepted are {accepted}.")
    building = Caller(hook=_HOOK, plugin=found.plugin, name=kind, timeout_s=None)
    try:
        expert = building.call(
            lambda: found.value.build(config, vocabulary=vocabulary, end_ids=end_ids),
            passing=(FloeError,),
        )
    except PluginCallError as error:
        raise PluginError(
            f"The plugin {found.plugin!r} failed to make the expert {kind!r}: {error.reason}."
        ) from None
    missing = [name for name in ("start", "score", "close") if not hasattr(expert, name)]
    if missing:
        raise PluginError(
            f"The plugin {found.plugin!r} makes of the kind {kind!r} a {type(expert).__name__} "
            f"without {', '.join(missing)}."
        )
    return PluginExpert(
        expert, plugin=found.plugin, name=kind, vocabulary=vocabulary, end_ids=end_ids
    )


def _is_future(value: object) -> Future[Any]:
    if not isinstance(value, Future):
        raise TypeError
    return value


def _checked_score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating):
        raise ExpertError("The expert's plugin gave no number as a score.")
    if not -np.inf < value <= MOST_LOGPROB:
        raise ExpertError("The expert's plugin gave a score that is no sum of logprobs.")
    return float(value)


def _set(future: Future[T], *, answer: Any = None, error: Exception | None = None) -> None:
    """Set a future's result; its caller may be cancelling it at the same time."""
    with suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)
