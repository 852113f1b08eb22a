import pytest
from flwr.app import Error, Message

from flower_strategy.config import ConfigValue
from flower_strategy.device.device_text import device_text
from flower_strategy.testing.grids import LocalGrid, start_run

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
