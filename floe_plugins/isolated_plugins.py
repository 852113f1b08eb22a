"""Routers and model sources of plugins, called through :mod:`floe_plugins.isolation`.

The plugin manager returns these, so that no code of Floe calls a plugin's own object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from floe_plugins.errors import ModelError
from floe_plugins.hooks import ModelSource
from floe_plugins.isolation import Caller, InvalidAnswerError, PluginCallError
from floe_plugins.routers import FloatArray, Router, RouterSignals, exponent_of

#: A router is called at every token, for microseconds; this only limits the damage of one that
#: hangs.
ROUTER_TIMEOUT_S = 1.0
LISTING_TIMEOUT_S = 10.0


class IsolatedRouter:
    """A router whose failures leave the rows of that step with the host.

    Parameters
    ----------
    plugin : str
        The plugin that registers it.
    timeout_s : float
        Seconds for one answer.

    Raises
    ------
    ValueError
        The router's exponent is not a number above 0 and up to 1.
    """

    def __init__(self, router: Router, *, plugin: str, timeout_s: float = ROUTER_TIMEOUT_S) -> None:
        self._router = router
        self.name = router.name
        #: See `floe_plugins.routers.exponent_of`; read once.
        self.exponent = exponent_of(router)
        if not 0 < self.exponent <= 1:
            raise ValueError(f"exponent is {self.exponent}; accepted is above 0 up to 1")
        self._caller = Caller(
            hook="floe_register_routers", plugin=plugin, name=self.name, timeout_s=timeout_s
        )

    def log_odds(self, signals: RouterSignals) -> FloatArray:
        """Return the router's answer, shape (rows,); NaN in all rows if it failed."""
        try:
            return self._caller.call(lambda: self._checked(signals))
        except PluginCallError:
            return signals.evidence * 0 + float("nan")

    def _checked(self, signals: RouterSignals) -> FloatArray:
        answer = self._router.log_odds(signals)
        if getattr(answer, "shape", None) != signals.evidence.shape:
            raise InvalidAnswerError
        # Converts any floats to those of the signals.
        odds = signals.evidence * 0 + answer
        if odds.dtype != signals.evidence.dtype:
            raise InvalidAnswerError
        return odds


class IsolatedSource:
    """A model source whose failures are a `ModelError` that names its plugin.

    Parameters
    ----------
    plugin : str
        The plugin that registers it.
    """

    def __init__(self, source: ModelSource, *, plugin: str) -> None:
        self._source, self._plugin = source, plugin
        self.name = source.name
        hook = "floe_register_model_sources"
        self._listing = Caller(
            hook=hook, plugin=plugin, name=self.name, timeout_s=LISTING_TIMEOUT_S
        )
        # A download may take an hour; the user sees it, and can interrupt it.
        self._resolving = Caller(hook=hook, plugin=plugin, name=self.name, timeout_s=None)

    def references(self) -> Sequence[str]:
        """Return the source's references; none if it failed."""

        def listed() -> Sequence[str]:
            found = self._source.references()
            if isinstance(found, str) or not all(isinstance(each, str) for each in found):
                raise InvalidAnswerError
            return tuple(found)

        try:
            return self._listing.call(listed)
        except PluginCallError:
            return ()

    def resolve(self, reference: str, *, progress: bool = True) -> Path:
        """Return the checkpoint's folder; see `ModelSource.resolve`.

        Raises
        ------
        ModelError
            The source's own error, or one that reports its failure.
        """

        def resolved() -> Path:
            folder = self._source.resolve(reference, progress=progress)
            if not isinstance(folder, Path) or not folder.is_dir():
                raise InvalidAnswerError
            return folder

        try:
            return self._resolving.call(resolved, passing=(ModelError,))
        except PluginCallError as error:
            raise ModelError(
                f"The model source {self.name!r} of plugin {self._plugin!r} failed with "
                f"{error.reason}; its author can say more."
            ) from None
