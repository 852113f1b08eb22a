import tomllib
from pathlib import Path

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.config import RunConfig


def test_the_defaults_are_accepted_and_are_those_of_pyproject() -> None:
    config = RunConfig.from_dict(RunConfig.defaults())
    assert config == RunConfig()
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    written = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["flwr"]["app"]["config"]
    assert written == RunConfig.defaults()
    assert {key: type(value) for key, value in written.items()} == {
        key: type(value) for key, value in RunConfig.defaults().items()
    }


def test_values_are_converted() -> None:
    config = RunConfig.from_dict(
        {
            "ranks": "16, 4,8",
            "alpha": 8,
            "devices": "phone, rack:64:0.5:100",
            "tasks": "code",
            "learning-rate": 1e-4,
        }
    )
    assert config.ranks == (4, 8, 16)
    assert config.alpha == 8.0
    assert config.devices == ("phone", "rack:64:0.5:100")
    assert config.tasks == ("code",)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("rounds", 0, "a whole number from 1 to"),
        ("rounds", 2.5, "a whole number from 1 to"),
        ("rounds", True, "a whole number from 1 to"),
        ("learning-rate", 0.0, "a number above 0 to 1"),
        ("learning-rate", float("nan"), "a number above 0 to 1"),
        ("learning-rate", "fast", "a number above 0 to 1"),
        ("mix", 1.5, "a number from 0 to 1"),
        ("rslora", "yes", "true or false"),
        ("model", "  ", "a text that is not empty"),
        ("dtype", "float16", "one of float32, bfloat16"),
        ("ranks", "4,many", "whole numbers from 1 to 512"),
        ("ranks", "0,4", "whole numbers from 1 to 512"),
        ("ranks", "", "whole numbers from 1 to 512"),
        ("export-rank", 12, "one of 1, 8, 16, 32, 64"),
        ("tasks", "code,poetry", "names among code, arithmetic, records"),
        ("devices", "", "names among phone, jetson, laptop"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(
    key: str, value: str | int | float | bool, accepted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({key: value})
    assert key in str(caught.value)
    assert accepted in str(caught.value)
    shown = "poetry" if key == "tasks" else repr(value)
    assert shown in str(caught.value)


def test_an_unknown_key_gets_its_nearest_neighbour() -> None:
    with pytest.raises(ConfigError, match="'local-step'; did you mean 'local-steps'"):
        RunConfig.from_dict({"local-step": 3})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("modules-to-save", "lm_head", "it trains whole weights of modules"),
        ("modules_to_save", "lm_head", "it trains whole weights of modules"),
        ("use-dora", True, "it divides adapted weights by their norm"),
        ("model.lora.use-dora", True, "it divides adapted weights by their norm"),
        ("dora", True, "it divides adapted weights by their norm"),
    ],
)
def test_what_cannot_be_averaged_is_refused_with_the_reason(
    key: str, value: str | bool, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is not supported: {reason}.*; leave it out"):
        RunConfig.from_dict({key: value})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"lr-schedule": "cosine", "learning-rate-min": 0.5},
            "learning-rate-min=0.5 is not accepted: it must be at most learning-rate, 0.002",
        ),
        (
            {"learning-rate-min": 1e-4},
            "learning-rate-min=0.0001 is not accepted: it must be 0 where lr-schedule is 'const",
        ),
    ],
)
def test_rates_that_do_not_fit_together_are_refused(
    values: dict[str, str | float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        RunConfig.from_dict(values)


def test_one_template_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        RunConfig.from_dict({"prompt-template": "{question}"})


def test_the_reference_page_is_what_the_keys_say() -> None:
    page = Path(__file__).parents[1] / "docs" / "reference" / "run-configuration.md"
    text = page.read_text("utf-8")
    assert RunConfig.table("default", "meaning", "accepts") in text
    for key, name in RunConfig.names().items():
        assert f"| `{key}` |" in text
        assert len(RunConfig.help(name)) > 15
        assert f"{RunConfig.help(name)} | {RunConfig.accepted(name, quote='`')} |" in text
