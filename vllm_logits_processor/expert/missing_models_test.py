from __future__ import annotations

from vllm_logits_processor.expert.missing_models import MissingModels
from vllm_logits_processor.expert.protocol import NoSuchModelError


def test_what_a_server_lacks_is_remembered_for_a_while() -> None:
    missing = MissingModels(remembered_s=10)
    assert missing.said("a", 0) is None
    missing.note("a", NoSuchModelError("no a"), 1)
    assert missing.said("a", 10.9) == "no a"
    assert missing.said("b", 2) is None
    assert missing.said("a", 11) is None
    missing.note("a", NoSuchModelError("still none"), 12)
    assert missing.said("a", 13) == "still none"


def test_names_that_clients_make_up_fill_no_memory() -> None:
    missing = MissingModels(remembered_s=10)
    for number in range(1000):
        missing.note(f"model-{number}", NoSuchModelError("no"), 0)
    known = [number for number in range(1000) if missing.said(f"model-{number}", 1)]
    assert known == [*range(1000 - 256, 1000)]
