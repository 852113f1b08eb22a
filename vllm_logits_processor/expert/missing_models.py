"""Remembers which models a server has said that it lacks, so that it is not asked at each token."""

from __future__ import annotations

from collections import OrderedDict

from vllm_logits_processor.expert.protocol import ExpertOpenError, NoSuchModelError

#: Most models that are remembered: clients name them.
_MOST = 256


class KnownMissingError(NoSuchModelError, ExpertOpenError):
    """A server has just said that it lacks the model: no server was called."""


class MissingModels:
    """The models that one server lacks.

    Parameters
    ----------
    remembered_s : float
        Seconds for which its word counts: an adapter may be loaded later.
    """

    def __init__(self, *, remembered_s: float) -> None:
        self._remembered_s = remembered_s
        #: By model: what the server said, and until when that counts. The latest is last.
        self._models: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def note(self, model: str, error: NoSuchModelError, now: float) -> None:
        """Note that the server said at `now` (seconds, monotonic) that it lacks a model."""
        self._models[model] = str(error), now + self._remembered_s
        self._models.move_to_end(model)
        if len(self._models) > _MOST:
            self._models.popitem(last=False)

    def said(self, model: str, now: float) -> str | None:
        """Return what the server said of a model that it lacks; None if it may have it."""
        said, until = self._models.get(model, ("", now))
        return said if now < until else None
