from __future__ import annotations

from typing import Any

import pytest

from vllm_logits_processor.request import RequestOptions


def test_nothing_said_is_auto() -> None:
    assert RequestOptions.from_extra_args(None) == RequestOptions()
    assert RequestOptions.from_extra_args({"other_plugin": 7}).mode == "auto"


def test_all_keys_are_read() -> None:
    options = RequestOptions.from_extra_args(
        {"floe": "host", "floe_expert_model": "cluster-0", "floe_label": "a"}
    )
    assert options == RequestOptions(mode="host", expert_model="cluster-0", label="a")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"floe": "yes"}, r"floe is 'yes'; accepted is auto, host, fused"),
        ({"floe": 1}, r"floe is 1; accepted"),
        ({"floe": ["host"]}, r"floe is \['host'\]; accepted"),
        ({"floe_expert_model": ""}, "1 to 256 characters"),
        ({"floe_label": "x" * 257}, "1 to 256 characters"),
        ({"floe_verdict": "clear"}, "floe_verdict is not known; accepted are floe"),
    ],
)
def test_wrong_values_are_value_errors(extra: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RequestOptions.from_extra_args(extra)
