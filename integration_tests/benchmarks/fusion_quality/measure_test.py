import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from floe_plugins.errors import ConfigError
from floe_plugins.routers import BUILT_IN_ROUTERS
from integration_tests.benchmarks.fusion_quality import measure
from integration_tests.benchmarks.fusion_quality.__main__ import main
from integration_tests.benchmarks.fusion_quality.positions import score
from integration_tests.benchmarks.fusion_quality.replay import Replay, fused_logprobs
from integration_tests.benchmarks.fusion_quality.scoring import Scorer, TokenTree
from vllm_logits_processor.alignment.maps import load_maps
from vllm_logits_processor.alignment.unknown import is_text
from vllm_logits_processor.fusion import fused_cells, weigh
from vllm_logits_processor.testing.alignment import factors_of
from vllm_logits_processor.testing.tokenizers import byte_level_bpe, sentencepiece_bpe

TEXT = (
    "The cat sat on the mat, and the watchers   watched 121 crêpes.\n\ndef add(x):\n    return x\n"
)
ROUTERS = {router.name: router for router in BUILT_IN_ROUTERS}


def written(folder: Path, backend: Tokenizer, *, end: str, seed: int, spare: int = 0) -> str:
    """Write a small Llama with random weights that are far from uniform.

    Its embedding has `spare` rows behind those of the tokens.
    """
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end).save_pretrained(str(folder))
    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=backend.get_vocab_size() + spare,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
        )
    ).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    return (
        written(folder / "host", byte_level_bpe(420), end="<|end|>", seed=0),
        written(folder / "expert", sentencepiece_bpe(420), end="</s>", seed=1),
    )


@pytest.fixture(scope="module")
def pair(folders: tuple[str, str]) -> tuple[Scorer, Scorer]:
    return Scorer(folders[0]), Scorer(folders[1])


def test_command_prints_one_json_object_with_the_keys(
    folders: tuple[str, str], tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text(TEXT)
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in (TEXT, TEXT[::-1])))
    models = ["--host", folders[0], "--expert", folders[1], "--top-k", "20", "--limit-bytes", "120"]
    values = values_of(main, *models, "--reversed", "--text", str(plain), str(lines))
    assert list(values["texts"]) == [str(plain), str(lines)]
    assert values["texts"][str(plain)]["bytes"] == len(TEXT.encode())
    # Results do not say where a machine keeps its models.
    assert values["reversed"]["host"] == values["expert"] == Path(folders[1]).name
    assert list(values["reversed"]["texts"]) == list(values["texts"])
    assert "further" not in values
    for figures in (*values["texts"].values(), *values["reversed"]["texts"].values()):
        assert set(figures["fused"]) == set(figures["gap_closed"]) == set(ROUTERS)
        assert set(figures["peers"]) == {"exact-string", "first-token", "top-k-union"}
        assert figures["hindsight"] <= figures["host"]
        assert figures["fused_without_tokenizer"] != figures["fused"]["evidence"]
        assert figures["fused"]["host"] == pytest.approx(figures["host"])
        assert figures["hindsight"] <= figures["fused"]["expert"] + 1e-6
        assert 0 < figures["boundary_share"] < 1
        for measured in ("unsure_nats", "unsure_margin"):
            steps = [step for step in figures["lazy"] if measured in step]
            assert {frozenset(step) for step in steps} == {
                frozenset({measured, "asked_share", "fused"})
            }
            shares = [step["asked_share"] for step in steps]
            assert shares == sorted(shares, reverse=True)


def test_further_hosts_are_compared_with_the_same_expert(
    folders: tuple[str, str], tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text(TEXT)
    first, second = folders
    models = ["--host", first, "--further-hosts", second, "--expert", second, "--reversed"]
    values = values_of(main, *models, "--top-k", "20", "--limit-bytes", "60", "--text", str(text))
    (further,) = values["further"]
    assert further["host"] == further["reversed"]["host"] == Path(second).name
    # A model that helps itself needs no more bits than alone.
    (figures,) = further["texts"].values()
    assert figures["fused"]["mean"] == pytest.approx(figures["host"], rel=1e-6)


def test_an_embedding_may_have_more_rows_than_there_are_tokens(
    tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    host = written(tmp_path / "h", byte_level_bpe(420), end="<|end|>", seed=0, spare=200)
    expert = written(tmp_path / "e", sentencepiece_bpe(420), end="</s>", seed=1, spare=300)
    text = tmp_path / "a.txt"
    text.write_text(TEXT)
    # As many as there are tokens: of the spare rows, which have much of the mass, none is told.
    fewer = min(len(Scorer(folder).vocabulary) for folder in (host, expert))
    every = ["--top-k", str(fewer)]
    models = ["--host", host, "--expert", expert, *every]
    values = values_of(main, *models, "--reversed", "--text", str(text))
    for pair in (values, values["reversed"]):
        (figures,) = pair["texts"].values()
        assert figures["hindsight"] <= min(figures["host"], figures["fused"]["expert"])
        assert figures["fused"]["evidence"] < max(figures["host"], figures["expert"])


def test_equal_models_fuse_into_themselves(pair: tuple[Scorer, Scorer]) -> None:
    host = pair[0]
    # Without runs of spaces: a text so far that ends in one has other tokens than the whole text.
    text = b"The cat sat on the mat, and the watchers watched."
    figures = measure.Comparison(host, host, top_k=len(host.vocabulary)).on([text])
    for bits in (*figures["fused"].values(), figures["expert"], figures["hindsight"]):
        assert bits == pytest.approx(figures["host"], abs=1e-4)


def test_what_is_reported_is_what_the_written_logits_say(pair: tuple[Scorer, Scorer]) -> None:
    host, expert = pair
    scored = score(TEXT.encode(), host, expert, top_k=20, covers=3)
    chunk = next(iter(scored.chunks(load_maps(host.vocabulary, expert.vocabulary))))
    rows, evidence = np.arange(len(chunk.targets)), np.linspace(-1, 1, len(chunk.targets))
    weights = weigh(ROUTERS["evidence"], chunk.aligned, evidence)
    found = fused_logprobs(chunk, weights)
    fused_cells(chunk.logits, rows, chunk.aligned, weights).write(chunk.logits)
    expected = torch.log_softmax(chunk.logits, dim=-1)[rows, torch.from_numpy(chunk.targets)]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_without_the_tokenizer_a_spellings_mass_goes_to_what_begins_with_it(
    pair: tuple[Scorer, Scorer],
) -> None:
    host, expert = pair
    scored = score("The caté sat".encode(), host, expert, top_k=20, covers=3)
    (chunk,) = scored.chunks(load_maps(host.vocabulary, expert.vocabulary))
    unknown, text, tried = chunk.without_tokenizer(), b"", 0
    for row, piece in enumerate(chunk.pieces):
        factors = factors_of(unknown.aligned, chunk.logits.shape[1])[row]
        q = factors * torch.softmax(chunk.logits[row], dim=-1).numpy()
        assert q.sum() == pytest.approx(1.0, abs=1e-3)
        named = dict(zip(chunk.plain.token_ids[row], chunk.plain.logprobs[row], strict=True))
        for token, logprob in named.items():
            data = expert.vocabulary.token_bytes[token]
            if not data or data not in host.vocabulary.token_bytes or logprob < -3:
                continue
            begin, end = host.vocabulary.beginning_with(data)
            mass = q[host.vocabulary.by_bytes[begin:end]].sum()
            if is_text(text) and is_text(data):
                assert mass >= np.exp(logprob) - 1e-3
                tried += 1
        if not is_text(text):
            assert factors == pytest.approx(1.0)
        text += piece
    assert tried


def test_a_tree_gives_what_each_sequence_gives_alone(pair: tuple[Scorer, Scorer]) -> None:
    model = pair[0]
    trunk = model.front + model.vocabulary.encode(TEXT.encode())
    tree = TokenTree(trunk)
    reading = model.read(tree)
    branches = [[*trunk[:5], 300, 301], [*trunk[:5], 300, 17], [*trunk, 9], trunk[:7]]
    nodes = [tree.node_of(branch) for branch in branches]
    assert nodes[3] == 6
    assert len(tree.tokens) == len(trunk) + 4
    reading.catch_up()
    together = model.logits(reading.hidden, nodes)
    for row, branch in enumerate(branches):
        alone = model.logits(model.read(TokenTree(branch)).hidden, [len(branch) - 1])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)


def test_sliding_windows_count_along_the_branch() -> None:
    tree = TokenTree([1, 2, 3, 4])
    node = tree.node_of([1, 2, 9, 9])
    assert tree.sight(window=2)[node].nonzero()[0].tolist() == [4, 5]
    assert tree.sight()[node].nonzero()[0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("router", list(ROUTERS))
def test_no_router_sees_the_token_that_it_weighs(pair: tuple[Scorer, Scorer], router: str) -> None:
    """Plant another token at the end: what was decided before it must not change."""
    host, expert = pair
    maps = load_maps(host.vocabulary, expert.vocabulary)
    weights = []
    for ending in (" mat", " watched"):
        document = TEXT[:40].encode() + ending.encode()
        replay = Replay(ROUTERS[router])
        for chunk in score(document, host, expert, top_k=20, covers=3).chunks(maps):
            replay.take(chunk)
        weights.append(replay.expert_weights[: len(host.vocabulary.encode(TEXT[:40].encode()))])
    assert weights[0] == pytest.approx(weights[1], abs=1e-3)


def test_gap_closed() -> None:
    assert measure.gap_closed(0.9, host=1.2, expert=1.0, hindsight=0.8) == pytest.approx(0.5)
    assert measure.gap_closed(1.1, host=1.2, expert=1.0, hindsight=0.8) == pytest.approx(-0.5)
    assert measure.gap_closed(1.0, host=1.0, expert=1.0, hindsight=1.0) is None


def test_embedded_tasks_are_texts_by_seed() -> None:
    first, again, other = (
        measure.read_text("embedded:arithmetic", seed=seed, limit_bytes=300) for seed in (0, 0, 1)
    )
    assert sum(map(len, first)) == 300
    assert first == again != other
    with pytest.raises(ConfigError, match="'poems'"):
        measure.read_text("embedded:poems", seed=0)


def test_documents(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "ab\\u2028é"}\n\n{"text": "cd"}\n', encoding="utf-8")
    assert measure.read_documents(path) == ["ab\u2028é".encode(), b"cd"]
    assert measure.read_documents(path, limit_bytes=6) == ["ab\u2028".encode()]
    path.write_text('{"text": 3}\n')
    with pytest.raises(measure.TextError, match="no string: 3"):
        measure.read_documents(path)
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    assert measure.read_documents(path) == [b"Question: 1 + 1?\nAnswer: 2"]
    assert measure.read_text(str(path), seed=0, limit_bytes=8) == [b"Question"]
    path.write_text("nonsense\n")
    with pytest.raises(measure.TextError, match="Line 1"):
        measure.read_documents(path)
    with pytest.raises(measure.TextError, match="cannot be read"):
        measure.read_documents(tmp_path / "absent.txt")
