"""Fixtures that run a benchmark's command within this process."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from flower_strategy.testing.models import tiny_model

__all__ = ["tiny_model"]


@pytest.fixture
def values_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs a `main` with options and returns its JSON."""

    def run(main: Callable[[list[str]], int], *options: str) -> Any:
        assert main([*options, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a failing `main` and returns its standard error."""

    def run(main: Callable[[list[str]], int], *options: str) -> str:
        try:
            status: object = main(list(options))
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        return capsys.readouterr().err

    return run
