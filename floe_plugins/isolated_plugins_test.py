import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from floe_plugins.errors import ModelError
from floe_plugins.isolated_plugins import IsolatedRouter, IsolatedSource
from floe_plugins.routers import RouterSignals, exponent_of

SIGNALS = RouterSignals(
    host_entropy=np.array([1.0, 2.0]),
    expert_entropy=np.array([2.0, 1.0]),
    disagreement=np.array([0.1, 0.2]),
    evidence=np.array([0.5, -0.5]),
)


@dataclass
class Router:
    answer: Callable[[RouterSignals], Any]
    name: str = "coin"
    exponent: float = 0.25

    def log_odds(self, signals: RouterSignals) -> Any:
        return self.answer(signals)


@dataclass
class Source:
    folder: object
    listed: object = ("small",)
    name: str = "shelf"

    def references(self) -> Sequence[str]:
        return self.listed  # type: ignore[return-value]

    def resolve(self, reference: str, *, progress: bool = True) -> Path:
        if isinstance(self.folder, Exception):
            raise self.folder
        return self.folder  # type: ignore[return-value]


def isolated(answer: Callable[[RouterSignals], Any], timeout_s: float = 5.0) -> IsolatedRouter:
    return IsolatedRouter(Router(answer), plugin="rash", timeout_s=timeout_s)


def test_a_router_answers_through_its_wall() -> None:
    router = isolated(lambda signals: -signals.evidence)
    assert router.log_odds(SIGNALS).tolist() == [-0.5, 0.5]
    assert (router.name, exponent_of(router)) == ("coin", 0.25)


def test_floats_of_other_widths_become_those_of_the_signals() -> None:
    answer = isolated(lambda _: np.array([1.5, 2.5], dtype=np.float32)).log_odds(SIGNALS)
    assert answer.tolist() == [1.5, 2.5]
    assert answer.dtype == np.float64


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: 1 / 0,
        lambda _: None,
        lambda _: [0.0, 0.0],
        lambda _: np.zeros(3),
        lambda _: np.zeros((2, 1)),
        lambda _: np.array([1j, 0]),
        lambda _: np.array(["a", "b"]),
        lambda _: np.array([None, None]),
    ],
)
def test_a_failure_or_nonsense_is_nan_in_all_rows(answer: Callable[[RouterSignals], Any]) -> None:
    odds = isolated(answer).log_odds(SIGNALS)
    assert odds.shape == (2,)
    assert np.isnan(odds).all()


def test_a_router_that_hangs_costs_its_time_once() -> None:
    router = isolated(lambda _: time.sleep(10.0), timeout_s=0.05)
    begun = time.monotonic()
    assert all(np.isnan(router.log_odds(SIGNALS)).all() for _ in range(100))
    # Waiting each time would take 5 s.
    assert time.monotonic() - begun < 1.0


def test_a_source_gives_what_it_has(tmp_path: Path) -> None:
    source = IsolatedSource(Source(tmp_path), plugin="rash")
    assert source.references() == ("small",)
    assert source.resolve("small") == tmp_path


@pytest.mark.parametrize("listed", [None, "small", [1], 3])
def test_a_source_that_cannot_list_lists_nothing(listed: object) -> None:
    assert IsolatedSource(Source(None, listed), plugin="rash").references() == ()


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (LookupError("the key is 42"), "'shelf' of plugin 'rash' failed with LookupError"),
        ("not a path", "InvalidAnswerError"),
        (Path("/nowhere/at/all"), "InvalidAnswerError"),
        (ModelError("The shelf has no 'small'."), "The shelf has no 'small'."),
    ],
)
def test_a_source_that_fails_is_a_model_error(folder: object, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        IsolatedSource(Source(folder), plugin="rash").resolve("small")
    assert "42" not in str(caught.value)
