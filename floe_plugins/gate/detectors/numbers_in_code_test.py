"""Numbers in programs, logs and tables are no addresses, telephones, cards or ids."""

import pytest

from floe_plugins.gate import Decision, Gate

GATE = Gate(
    detectors=("card", "ip-address", "mac-address", "national-id", "phone", "us-ssn"), timeout_s=30
)

ORDINARY = [
    "rows[2::3] + rows[n-1::] + rows[10::20]",
    "x[100::200], y[::4], z[7::-1]",
    "background: rgb(140, 200, 140); color: rgba(200, 160, 110, 0.5)",
    "the scores were 130 150 110 and 310 220 130",
    "pip install tool==2.13.4.1 other>=1.0.2.3",
    "Upgraded to firmware 3.12.40.7 yesterday",
    "Kafka 2.8.1.4 is out, see section 4.3.2.1",
    "'tool': '^1.2.3.4', Mozilla/5.0.11.2",
    "use 8.8.8.8 or 1.1.1.1",
    "matrix(0.45395,780.7636214,86)",
    "y = 0.4539578763621486",
    "p = 4539578763621486.25",
    "lat,lon\n45395.787636,214861.5",
    "call f with 2500000 rows, then dial down to 3000000",
    '{"text": "81234567", "call": "7654321"}',
    "every call takes 12345678 bytes",
    "The phone has 12000000 pixels.",
    "ring[1234567] and cell = 10000000",
    "05-12-2023 1030 job started",
    "1700000000, 1712345678901, 0x1F4",
    "00:10:20.300 --> 00:10:25.400",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_numbers_are_clear(text: str) -> None:
    verdict = GATE.decide(text)
    assert verdict.decision is Decision.CLEAR, verdict.labels


PRIVATE = {
    "ping 4.18.2.1": "4.18.2.1",
    "connect to 3.12.40.7 at noon": "3.12.40.7",
    "http://4.18.2.1/x": "4.18.2.1",
    "it is 3.12.40.7:22": "3.12.40.7",
    "we have 10.0.0.5 there": "10.0.0.5",
    "route 2a00::1 to it": "2a00::1",
    "card 4111/1111/1111/1111": "4111/1111/1111/1111",
    "1. 4111 1111 1111 1111": "4111 1111 1111 1111",
    "call me on 7654321": "7654321",
    "phone 2500001": "2500001",
    "my social insurance number is 046 454 286": "046 454 286",
}


@pytest.mark.parametrize(("text", "value"), PRIVATE.items())
def test_real_ones_beside_them_are_found(text: str, value: str) -> None:
    verdict = GATE.decide(text)
    assert value in {text[span.start : span.end] for span in verdict.spans}
