"""The conformance suite of experts that plugins register."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from floe_plugins.hooks import RESERVED, ExpertKind
from floe_plugins.manager import Registered
from floe_plugins.manager_checks import NAME

if TYPE_CHECKING:
    from vllm_logits_processor.expert.plugin import PluginExpert
    from vllm_logits_processor.expert.protocol import Continuation, ExpertReply

_STEPS = 3


class ExpertConformance:
    """Tests of one kind of expert; inherit in a class whose name begins with ``Test``.

    The expert is built and asked as a server does it: behind the checks that turn a wrong answer
    into an `ExpertError`, which fails the test here with its sentence.

    Attributes
    ----------
    kind : ExpertKind
        What the plugin registers.
    config : ExpertConfig, optional
        Section ``expert`` of the configuration; by default only the model's name and the kind.
    model : str
        The model that is asked.
    vocabulary : int
        Number of the expert's tokens.
    end_ids : sequence of int
        Its end tokens.
    prompts : sequence of int sequences
        Texts as its tokens, at least two, the first with two tokens or more.
    tolerance : float
        By how much a logprob may differ between two calls, in nats: servers compute one text in
        another order beside others.
    within_s : float
        Seconds that a call may take.
    """

    kind: ClassVar[ExpertKind]
    config: ClassVar[Any] = None
    model: ClassVar[str] = "expert"
    vocabulary: ClassVar[int] = 1000
    end_ids: ClassVar[Sequence[int]] = ()
    prompts: ClassVar[Sequence[Sequence[int]]] = ((1, 2, 3, 4), (5,), (1, 2, 3))
    tolerance: ClassVar[float] = 1e-3
    within_s: ClassVar[float] = 30.0

    @pytest.fixture
    def expert(self) -> Iterator[PluginExpert]:
        """Build the expert, and close it after the test."""
        built = self.build()
        yield built
        built.close()

    def build(self) -> PluginExpert:
        """Build the expert as a server does."""
        # What a detector's author has installed need not have the serving half's libraries.
        from vllm_logits_processor.config import ExpertConfig
        from vllm_logits_processor.expert.plugin import plugin_expert

        return plugin_expert(
            self.kind.name,
            self.config or ExpertConfig(model=self.model, kind=self.kind.name),
            {self.kind.name: Registered(self.kind.name, "conformance", self.kind)},
            vocabulary=self.vocabulary,
            end_ids=np.array(self.end_ids, dtype=np.int32),
        )

    def test_it_says_what_it_is(self) -> None:
        """The kind has a name that the manager accepts, and can be built."""
        assert isinstance(self.kind, ExpertKind), "it lacks name or build"
        assert NAME.fullmatch(self.kind.name)
        assert self.kind.name not in RESERVED["floe_register_experts"]

    def test_every_prompt_has_its_answer(self, expert: PluginExpert) -> None:
        """Each prompt gets a token and a distribution, in the order of the prompts."""
        together = self._ask(expert, self.prompts)
        assert len(together) == len(self.prompts)
        for prompt, one in zip(self.prompts, together, strict=True):
            assert len(one.tokens) == 1
            (alone,) = self._ask(expert, [prompt])
            self._alike(one, alone)

    def test_its_own_tokens_are_the_likeliest(self, expert: PluginExpert) -> None:
        """What it would write itself is greedy: no listed token is likelier."""
        for one in self._ask(expert, self.prompts, steps=_STEPS):
            for step, token in enumerate(one.tokens.tolist()):
                listed = _listed(one, step)
                ends = set(self.end_ids)
                found = max(
                    (
                        at
                        for other, at in listed.items()
                        if other == token or {other, token} <= ends
                    ),
                    default=-np.inf,
                )
                assert found >= max(listed.values()) - self.tolerance

    def test_several_steps_are_those_of_several_calls(self, expert: PluginExpert) -> None:
        """A distribution further ahead is that after the prompt and its own tokens so far."""
        for prompt, ahead in zip(
            self.prompts, self._ask(expert, self.prompts, steps=_STEPS), strict=True
        ):
            assert 1 <= len(ahead.tokens) <= _STEPS
            for step in range(len(ahead.tokens)):
                (single,) = self._ask(expert, [[*prompt, *ahead.tokens[:step].tolist()]])
                self._alike(single, ahead, step=step)

    def test_calls_that_overlap_are_all_answered(self, expert: PluginExpert) -> None:
        """A call is begun before the one before it has its answer."""
        begun = [expert.start([prompt], model=self.model) for prompt in self.prompts]
        for prompt, future in zip(self.prompts, begun, strict=True):
            (alone,) = self._ask(expert, [prompt])
            self._alike(self._answer(future)[0], alone)

    def test_a_call_that_is_dropped_harms_no_other(self, expert: PluginExpert) -> None:
        """Floe drops calls of texts that have ended."""
        before = self._ask(expert, self.prompts)
        expert.start(self.prompts, model=self.model).cancel()
        for one, other in zip(before, self._ask(expert, self.prompts), strict=True):
            self._alike(one, other)

    def test_a_text_has_a_score_or_the_expert_says_that_it_has_none(
        self, expert: PluginExpert
    ) -> None:
        """A score is the sum of logprobs, the same for the same text; refusing is an error."""
        from vllm_logits_processor.expert.protocol import ExpertError

        prompt = self.prompts[0]
        asked = expert.score(prompt, model=self.model)
        error = asked.exception(self.within_s)
        if isinstance(error, ExpertError):
            assert "plugin failed" not in str(error), "raise ExpertError with a sentence instead"
            return
        first = asked.result()
        again = expert.score(prompt, model=self.model).result(self.within_s)
        assert np.isfinite(first)
        assert again == pytest.approx(first, abs=self.tolerance * len(prompt))

    def test_it_can_be_closed_with_a_call_under_way(self, expert: PluginExpert) -> None:
        """The future is settled then, with or without an answer: nothing waits for ever."""
        from vllm_logits_processor.expert.protocol import ExpertError

        begun = expert.start(self.prompts, model=self.model)
        expert.close()
        expert.close()
        try:
            begun.result(self.within_s)
        except (ExpertError, CancelledError):
            return

    def _ask(
        self, expert: PluginExpert, prompts: Sequence[Sequence[int]], *, steps: int = 1
    ) -> tuple[Continuation, ...]:
        return self._answer(expert.start(prompts, model=self.model, steps=steps))

    def _answer(self, future: Any) -> tuple[Continuation, ...]:
        reply: ExpertReply = future.result(self.within_s)
        return reply.continuations

    def _alike(self, one: Continuation, other: Continuation, *, step: int = 0) -> None:
        """Check one distribution against another's; either may lack the other's smallest."""
        first, second = _listed(one, 0), _listed(other, step)
        least = max(min(first.values()), min(second.values()))
        for token in first.keys() | second.keys():
            values = [listed.get(token, -np.inf) for listed in (first, second)]
            if max(values) > least + self.tolerance:
                assert values[0] == pytest.approx(values[1], abs=self.tolerance), token


def _listed(continuation: Continuation, step: int) -> dict[int, float]:
    """Return the tokens of a step with their logprobs, without padding."""
    ids, logprobs = continuation.top.token_ids[step], continuation.top.logprobs[step]
    return {
        token: logprob
        for token, logprob in zip(ids.tolist(), logprobs.tolist(), strict=True)
        if token >= 0
    }
