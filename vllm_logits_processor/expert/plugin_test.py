"""Experts from plugins: well-behaved, broken, blocking and lying ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from floe_plugins.errors import ConfigError, PluginError
from floe_plugins.hooks import RESERVED
from floe_plugins.manager import Registered
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.build import COMPLETIONS, IN_PROCESS, build_expert
from vllm_logits_processor.expert.plugin import PluginExpert
from vllm_logits_processor.expert.pool import ExpertPool
from vllm_logits_processor.expert.protocol import Continuation, ExpertError, ExpertReply

CONFIG = ExpertConfig(model="parrot", url="http://127.0.0.1:9/v1", tokenizer="parrot")
NO_ENDS = np.empty(0, dtype=np.int32)


def top(*tokens: int, total: float = 1.0) -> ExpertTopK:
    share = np.log(total / len(tokens))
    return ExpertTopK(
        token_ids=np.array([tokens], dtype=np.int64), logprobs=np.full((1, len(tokens)), share)
    )


def reply(*continuations: Continuation) -> ExpertReply:
    return ExpertReply(continuations=continuations, sent_bytes=3, received_bytes=5)


def says(token: int = 7, **options: Any) -> Continuation:
    return Continuation(tokens=np.array([token]), top=top(token, 8, **options))


def shaped(ids: list[Any], logprobs: list[Any]) -> Continuation:
    odd = ExpertTopK(token_ids=np.array(ids), logprobs=np.array(logprobs))
    return Continuation(tokens=np.array([1] * len(ids)), top=odd)


class Parrot:
    """Gives a fixed answer: raises an exception, returns a future unchanged."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.closed = answer, False
        self.waits_for: threading.Event | None = None

    def start(self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1) -> Any:
        if self.waits_for is not None:
            self.waits_for.wait(10)
        return self._give()

    def score(self, prompt: Sequence[int], *, model: str) -> Any:
        return self._give()

    def close(self) -> None:
        self.closed = True
        raise OSError

    def _give(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, Future):
            return self.answer
        future: Future[Any] = Future()
        future.set_result(self.answer)
        return future


class Kind:
    name = "parrot"

    def __init__(self, built: Any) -> None:
        self.built = built

    def build(self, config: ExpertConfig, *, vocabulary: int, end_ids: Any) -> Any:
        if isinstance(self.built, Exception):
            raise self.built
        assert (config.model, vocabulary) == ("parrot", 10)
        return self.built


def expert(answer: Any) -> PluginExpert:
    return PluginExpert(
        Parrot(answer), plugin="birds", name="parrot", vocabulary=10, end_ids=NO_ENDS
    )


def built(thing: Any, kind: str = "parrot") -> ExpertPool:
    return build_expert(
        CONFIG.changed(kind=kind),
        vocabulary=10,
        end_ids=NO_ENDS,
        breaker_failures=2,
        breaker_cooldown_s=60.0,
        kinds={"parrot": Registered("parrot", "birds", Kind(thing))},
    )


def failed() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(OverflowError("the text"))
    return future


def test_the_configured_kind_answers_through_its_wall() -> None:
    parrot = Parrot(reply(says(7), says(3)))
    pool = built(parrot)
    answer = pool.start([[1], [2]], model="parrot").result(timeout=5)
    assert [each.tokens.tolist() for each in answer.continuations] == [[7], [3]]
    assert (answer.sent_bytes, answer.received_bytes) == (3, 5)
    parrot.answer = -2.5
    assert pool.score([1, 2], model="parrot").result(timeout=5) == -2.5
    pool.close()
    assert parrot.closed


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (KeyError("the text"), r"plugin failed \(KeyError\)"),
        (failed(), r"plugin failed \(OverflowError\)"),
        (ExpertError("The parrot sleeps."), "The parrot sleeps."),
        ("Polly", "no reply to 1 prompts"),
        (reply(), "no reply to 1 prompts"),
        (reply(says(), says()), "no reply to 1 prompts"),
        (reply(says(10)), r"outside 0\.\.9"),
        (reply(says(total=2.0)), "sum to more than one"),
        (reply(Continuation(tokens=np.array([1, 2]), top=top(1))), "2 tokens and 1 distributions"),
        (reply(Continuation(tokens=np.array([1.0]), top=top(1))), "1 tokens of type float64"),
        (reply(shaped([[1, 2]], [[-1.0]])), r"shapes \(1, 2\) and \(1, 1\)"),
        (reply(shaped([1], [-1.0])), r"shapes \(1,\) and \(1,\)"),
        (reply(shaped([[1.0]], [[-1.0]])), "types float64 and float64"),
        (reply(shaped([[1]], [[-1]])), "types int64 and int64"),
    ],
)
def test_what_goes_wrong_is_an_expert_error(answer: Any, said: str) -> None:
    with pytest.raises(ExpertError, match=said) as caught:
        expert(answer).start([[1]], model="parrot").result(timeout=5)
    assert "the text" not in str(caught.value)


def test_an_answer_in_other_types_comes_in_those_that_the_step_is_compiled_for() -> None:
    narrow = ExpertTopK(
        token_ids=np.array([[7, 8]], dtype=np.int32),
        logprobs=np.array([[-1.0, -2.0]], dtype=np.float32),
    )
    answer = reply(Continuation(tokens=np.array([7], dtype=np.int32), top=narrow))
    (said,) = expert(answer).start([[1]], model="parrot").result(timeout=5).continuations
    types = [array.dtype.name for array in (said.tokens, said.top.token_ids, said.top.logprobs)]
    assert types == ["int64", "int64", "float64"]
    assert said.top.token_ids.tolist() == [[7, 8]]


@pytest.mark.parametrize("answer", ["x", None, True, float("nan"), float("-inf"), 4.0])
def test_a_score_that_is_none_is_an_expert_error(answer: Any) -> None:
    with pytest.raises(ExpertError):
        expert(answer).score([1, 2], model="parrot").result(timeout=5)


def test_a_start_that_gives_no_future_is_an_expert_error() -> None:
    parrot = expert(None)
    parrot._expert.start = lambda *_, **__: "now"  # type: ignore[method-assign, assignment]
    with pytest.raises(ExpertError, match="TypeError"):
        parrot.start([[1]], model="parrot").result(timeout=5)


def test_a_plugin_that_blocks_holds_up_nobody() -> None:
    parrot = Parrot(reply(says()))
    parrot.waits_for = threading.Event()
    wall = PluginExpert(parrot, plugin="birds", name="parrot", vocabulary=10, end_ids=NO_ENDS)
    future = wall.start([[1]], model="parrot")
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    parrot.waits_for.set()
    assert future.result(timeout=5).sent_bytes == 3


def test_cancelling_reaches_the_plugin() -> None:
    theirs: Future[Any] = Future()
    future = expert(theirs).start([[1]], model="parrot")
    while not theirs._done_callbacks:  # type: ignore[attr-defined]
        pass
    future.cancel()
    with pytest.raises(CancelledError):
        theirs.result(timeout=5)


def test_a_closed_expert_answers_nothing() -> None:
    closed = expert(reply(says()))
    closed.close()
    assert closed.start([[1]], model="parrot").cancelled()


@pytest.mark.parametrize(
    ("thing", "kind", "error", "said"),
    [
        (None, "canary", ConfigError, "expert.kind is 'canary'; accepted are .*, parrot"),
        (None, IN_PROCESS, ConfigError, "accepted with it is no expert.url"),
        (KeyError("key"), "parrot", PluginError, "'birds' failed to make .*'parrot': KeyError"),
        (ConfigError("No seeds."), "parrot", ConfigError, "No seeds."),
        (object(), "parrot", PluginError, "a object without start, score, close"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(
    thing: Any, kind: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        built(thing, kind)


def test_the_gate_stands_before_the_kinds_of_plugins() -> None:
    assert not ExpertConfig(model="parrot", kind="parrot").sees_everything
    assert ExpertConfig(model="parrot", kind="parrot", trusted=True).sees_everything
    assert ExpertConfig(model="parrot", kind=IN_PROCESS).sees_everything
    with pytest.raises(ConfigError, match=r"expert\.kind is ''"):
        ExpertConfig(model="parrot", kind="")


def test_the_reserved_names_are_those_of_the_built_in_kinds() -> None:
    assert RESERVED["floe_register_experts"] == {COMPLETIONS, IN_PROCESS}
