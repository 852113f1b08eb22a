from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy import FloeStrategy
from flower_strategy.config import RunConfig
from flower_strategy.ranks.policies import FixedPolicy
from flower_strategy.settings import (
    CheckpointSettings,
    ClusteringSettings,
    EmbeddingSettings,
    Participation,
    ReplyRules,
    TrainingSettings,
)


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Participation, {"quorum": 2.0}, "quorum=2.0 is not accepted: it must be a number above 0"),
        (Participation, {"fraction_train": 0.0}, "fraction_train=0.0 is not accepted"),
        (Participation, {"quorum_grace": None}, "quorum_grace=None is not accepted"),
        (Participation, {"keep_uploads": -1}, "a whole number from 0 to 100"),
        (CheckpointSettings, {"keep": -1}, "keep_checkpoints=-1 is not accepted"),
        (ReplyRules, {"min_replies": 0}, "min_replies=0 is not accepted"),
        (ReplyRules, {"norm_limit": float("nan")}, "norm_limit=nan is not accepted"),
    ],
)
def test_a_value_that_a_program_sets_is_checked_as_that_of_a_configuration(
    kind: type, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**values)


@pytest.mark.parametrize(
    ("epochs", "examples", "steps"),
    [(0.0, 1000, 3), (1.0, 16, 2), (1.0, 17, 3), (2.0, 17, 6), (0.5, 17, 2), (0.1, 1, 1)],
)
def test_steps_of_a_round_follow_epochs_where_there_are_some(
    epochs: float, examples: int, steps: int
) -> None:
    settings = TrainingSettings(
        model="any", epochs=epochs, batch_size=4, gradient_accumulation_steps=2
    )
    assert settings.steps(examples) == steps


def test_a_program_is_told_why_dora_is_not_there() -> None:
    with pytest.raises(ConfigError, match="use_dora is not supported: it divides"):
        TrainingSettings(model="any", use_dora=True)  # type: ignore[call-arg]


def test_a_rank_that_vllm_does_not_take_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match="export_rank=12 is not accepted: it must be one of 1, 8"):
        FloeStrategy(
            training=TrainingSettings(model="any"),
            rank_policy=FixedPolicy(ranks={"": 4}),
            export_rank=12,
        )


@pytest.mark.parametrize("kind", [CheckpointSettings, ClusteringSettings, EmbeddingSettings])
def test_settings_of_other_names_have_the_defaults_of_the_keys(kind: Any) -> None:
    assert kind() == kind.from_config(RunConfig())
