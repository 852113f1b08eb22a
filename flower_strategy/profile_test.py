import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from flower_strategy.config import ConfigValue
from flower_strategy.profile import (
    DEVICE_KEY,
    EMBEDDING_KEY,
    PROFILE_KEY,
    DeviceProfile,
    ProfileError,
    device_text,
)
from flower_strategy.testing.grids import LocalGrid, start_run
from flower_strategy.testing.models import make_profile


def test_a_record_gives_back_the_profile() -> None:
    profile = make_profile(bandwidth=float("inf"), form="chat")
    back = DeviceProfile.from_record(profile.to_record())
    assert np.array_equal(back.embedding, profile.embedding)
    for name, value in vars(profile).items():
        if name != "embedding":
            assert getattr(back, name) == value


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_examples": 0}, "num-examples is 0"),
        ({"num_examples": 10**15}, "10000000 at most are accepted"),
        ({"form": "prose"}, "form is 'prose'; accepted is one of chat, plain"),
        ({"bandwidth": 0.0}, "bandwidth is 0"),
        ({"bytes_per_rank": 10**300}, "that is no real device"),
        ({"step_ranks": (-(10**9), 4)}, "ranks are 1 to 4096"),
        ({"step_ranks": (math.inf, 4.0)}, r"step-ranks is \[inf, 4.0\]; finite"),
        ({"step_seconds": (1e300, 1e300)}, "step-seconds is"),
        ({"step_seconds": (1.0, float("nan"))}, "step-seconds"),
        ({"embedding": np.array([3.0, 4.0], np.float32)}, "length 5"),
        ({"embedding": np.array([np.nan, 1.0], np.float32)}, "length nan"),
        ({"embedding": np.ones((1, 1), np.float32)}, "one vector"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProfileError, match=complaint):
        DeviceProfile.from_record(make_profile(**changes).to_record())


def test_a_missing_part_is_named() -> None:
    for part in (PROFILE_KEY, DEVICE_KEY, EMBEDDING_KEY):
        record = RecordDict(
            {name: value for name, value in make_profile().to_record().items() if name != part}
        )
        with pytest.raises(ProfileError, match=part):
            DeviceProfile.from_record(record)


def test_a_list_where_a_number_belongs_is_refused() -> None:
    record = make_profile().to_record()
    record.metric_records[PROFILE_KEY]["bandwidth"] = [1.0, 2.0]
    with pytest.raises(ProfileError, match="one number is needed"):
        DeviceProfile.from_record(record)


def test_an_integer_embedding_is_read_as_floats() -> None:
    record = make_profile().to_record()
    record[EMBEDDING_KEY] = ArrayRecord({"embedding": Array(np.array([0, 1]))})
    assert DeviceProfile.from_record(record).embedding.dtype == np.float32


FORGED = "phone\n\x1b[31mINFO :      Wrote 3 adapters\u2028\u200b"


def test_nothing_is_left_that_a_log_or_a_terminal_would_obey() -> None:
    text = device_text(FORGED, most=500)
    assert text == "phone  [31mINFO :      Wrote 3 adapters  "
    assert device_text(FORGED, most=5) == "phone"
    assert device_text("café, 3 €", most=500) == "café, 3 €"


def test_a_device_cannot_write_lines_into_the_log(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query.profile":
            reply.content.config_records["device"]["device"] = FORGED
        if message.metadata.message_type == "train" and node == 100:
            return Message(Error(code=1, reason=FORGED), reply_to=message)
        return reply

    run_config |= {"rounds": 1, "local-steps": 1, "eval-examples": 1}
    strategy, _ = start_run(run_config, LocalGrid(run_config, 2, tamper=tamper))
    assert [refusal.node for refusal in strategy.state.history[1].refused] == [100]
    said = [record.getMessage() for record in log.records]
    assert any("Wrote 3 adapters" in line for line in said)
    for line in said:
        assert line.replace("\t", "").isprintable()
