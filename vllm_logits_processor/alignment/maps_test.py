"""The maps and the five properties, on real pairs of tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from floe_plugins.routers import ConstantRouter
from vllm_logits_processor.alignment.cache import load_maps
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, build_maps, maps_key
from vllm_logits_processor.alignment.reweigh import Aligned, align
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.conftest import trained_vocabulary
from vllm_logits_processor.fusion import fuse, weigh

MEAN = ConstantRouter(name="mean", value=0.0)
PAIRS = [
    ("gemma", "smollm2"),
    ("smollm2", "gemma"),
    ("smollm2", "sentencepiece"),
    ("unigram", "byte-level"),
    ("sentencepiece", "unigram"),
]


class Pair:
    """Two vocabularies with their maps."""

    def __init__(self, host: ByteVocabulary, expert: ByteVocabulary) -> None:
        self.host, self.expert, self.maps = host, expert, build_maps(host, expert)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    def named(name: str) -> ByteVocabulary:
        if name in ("gemma", "smollm2"):
            found: ByteVocabulary = request.getfixturevalue(name)
            return found
        return trained_vocabulary(name)

    return Pair(*(named(name) for name in request.param))


def some_row(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(1, size, generator=generator)


def some_top(pair: Pair, seed: int, k: int = 20) -> ExpertTopK:
    random = np.random.default_rng(seed)
    mappable = np.flatnonzero(
        (np.diff(pair.maps.offsets) > 0) | (np.asarray(pair.maps.extra) != NOTHING)
    )
    ids = random.choice(mappable, size=k, replace=False)
    masses = random.dirichlet(np.full(k + 1, 0.3))[:k]
    return ExpertTopK(token_ids=ids[None], logprobs=np.log(np.maximum(masses, 1e-30))[None])


def q_of(logits: torch.Tensor, aligned: Aligned) -> torch.Tensor:
    factors = torch.full_like(logits, float(aligned.tail_factor[0]), dtype=torch.float64)
    factors[0, aligned.tokens] = torch.from_numpy(aligned.factor)
    return torch.softmax(logits.double(), dim=-1) * factors


ON_PAIRS = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ON_PAIRS
@given(seed=st.integers(0, 10**6))
def test_mass(pair: Pair, seed: int) -> None:
    logits = some_row(len(pair.host), seed)
    aligned = align(logits, np.arange(1), some_top(pair, seed), pair.maps)
    assert q_of(logits, aligned).sum().item() == pytest.approx(1.0, abs=1e-4)


@ON_PAIRS
@given(seed=st.integers(0, 10**6))
def test_identity_of_equal_vocabularies(pair: Pair, seed: int) -> None:
    size = len(pair.expert)
    maps = build_maps(pair.expert, pair.expert)
    said = torch.log_softmax(some_row(size, seed + 1).double(), dim=-1)
    top = ExpertTopK(token_ids=np.arange(size)[None], logprobs=said.numpy())
    logits = some_row(size, seed)
    q = q_of(logits, align(logits, np.arange(1), top, maps))
    assert torch.allclose(q, said.exp(), rtol=1e-4, atol=1e-9)


@ON_PAIRS
@given(seed=st.integers(0, 10**6))
def test_neutrality_where_the_expert_says_what_the_host_says(pair: Pair, seed: int) -> None:
    logits = some_row(len(pair.host), seed)
    host = torch.softmax(logits.double(), dim=-1)[0].numpy()
    ids: list[int] = []
    taken: set[int] = set()
    for token in some_top(pair, seed).token_ids[0].tolist():
        if not taken & (group := pair.maps.group(token)):
            ids.append(token)
            taken |= group
    masses = [host[list(pair.maps.group(token))].sum() for token in ids]
    top = ExpertTopK(token_ids=np.array([ids]), logprobs=np.log([masses]))
    aligned = align(logits, np.arange(1), top, pair.maps)
    fused = logits.clone()
    fuse(fused, np.arange(1), aligned, weigh(MEAN, aligned, np.zeros(1)))
    assert torch.allclose(
        torch.softmax(fused.double(), -1), torch.softmax(logits.double(), -1), rtol=1e-4, atol=1e-9
    )


@ON_PAIRS
@given(seed=st.integers(0, 10**6))
def test_masked_tokens_stay_masked_and_their_mass_goes_back(pair: Pair, seed: int) -> None:
    logits, top = some_row(len(pair.host), seed), some_top(pair, seed)
    for token in top.token_ids[0, :10].tolist():
        logits[0, list(pair.maps.group(token))] = -torch.inf
    masked = torch.isneginf(logits)
    aligned = align(logits, np.arange(1), top, pair.maps)
    assert q_of(logits, aligned).sum().item() == pytest.approx(1.0, abs=1e-4)
    fuse(logits, np.arange(1), aligned, weigh(MEAN, aligned, np.zeros(1)))
    assert bool(torch.isneginf(logits[masked]).all())
    assert not torch.isnan(logits).any()


def test_specials_never_mix_save_the_ends(pair: Pair) -> None:
    maps, host, expert = pair.maps, pair.host, pair.expert
    for token, data in enumerate(host.token_bytes):
        if data is None and token not in host.end_ids:
            assert maps.first_expert[token] == NOTHING
    for token, data in enumerate(expert.token_bytes):
        if data is None and token not in expert.end_ids:
            assert maps.first_host[token] == NOTHING
            assert not maps.group(token)
    assert maps.group(int(maps.end_ids[0])) >= host.end_ids


def test_groups_are_what_their_definition_says(pair: Pair) -> None:
    maps: AlignmentMaps = pair.maps
    random = np.random.default_rng(0)
    for token in random.integers(0, len(pair.expert), 30).tolist():
        wanted = set(np.flatnonzero(np.asarray(maps.first_expert) == token).tolist())
        if maps.first_host[token] != NOTHING:
            wanted.add(int(maps.first_host[token]))
        assert maps.group(token) == wanted


def test_duplicates_resolve_to_the_tokenizers_own_choice(
    gemma: ByteVocabulary, smollm2: ByteVocabulary
) -> None:
    twins = [token for token, data in enumerate(gemma.token_bytes) if data == b"\n"]
    assert len(twins) > 1
    maps = build_maps(smollm2, gemma)
    newline = smollm2.encode(b"\n")[0]
    assert maps.first_expert[newline] == gemma.encode(b"\n")[0]


def test_maps_are_kept_on_disk_and_shared(tmp_path: Path) -> None:
    host, expert = trained_vocabulary("byte-level"), trained_vocabulary("sentencepiece")
    built = load_maps(host, expert, folder=tmp_path)
    kept = load_maps(host, expert, folder=tmp_path)
    for name in vars(built):
        assert np.array_equal(getattr(built, name), getattr(kept, name))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        maps_key(host, expert),
        f"{maps_key(host, expert)}.lock",
    ]
    assert maps_key(host, expert) != maps_key(expert, host)


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, expert = trained_vocabulary("byte-level"), trained_vocabulary("sentencepiece")

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:  # a full disk cannot be had in a test
        patch.setattr(np, "save", full_disk)
        with pytest.raises(OSError, match="No space"):
            load_maps(host, expert, folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(load_maps(host, expert, folder=tmp_path).members) > 0
