"""The maps and the five properties, on pairs of real tokenizers and of trained ones."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from floe_plugins.errors import FloeError
from floe_plugins.routers import ConstantRouter
from vllm_logits_processor.alignment.align import Aligned, align
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import (
    NOTHING,
    AlignmentMaps,
    build_maps,
    keep,
    load_maps,
    maps_key,
)
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.protocol import checked_top_k
from vllm_logits_processor.fusion import weigh
from vllm_logits_processor.testing.alignment import factors_of, fuse, group_of
from vllm_logits_processor.testing.tokenizers import TRAINED, TRAINED_WORDS, trained_vocabulary

MEAN = ConstantRouter(name="mean", value=0.0)
PAIRS = [
    ("gemma", "smollm2"),
    ("smollm2", "gemma"),
    ("smollm2", "mistral"),
    ("mistral", "tekken"),
    ("tekken", "sentencepiece"),
    ("unigram", "byte-level"),
    ("sentencepiece", "unigram"),
    ("wordpiece", "byte-level"),
    ("smollm2", "wordpiece-uncased"),
]


class Pair:
    """Two vocabularies with their maps."""

    def __init__(self, host: ByteVocabulary, expert: ByteVocabulary) -> None:
        self.host, self.expert, self.maps = host, expert, build_maps(host, expert)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    def named(name: str) -> ByteVocabulary:
        if name in TRAINED | TRAINED_WORDS:
            return trained_vocabulary(name)
        found: ByteVocabulary = request.getfixturevalue(name)
        return found

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
    factors = torch.from_numpy(factors_of(aligned, logits.shape[1]))
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
        if not taken & (group := group_of(pair.maps, token)):
            ids.append(token)
            taken |= group
    masses = [host[list(group_of(pair.maps, token))].sum() for token in ids]
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
        logits[0, list(group_of(pair.maps, token))] = -torch.inf
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
            assert not group_of(maps, token)
    assert group_of(maps, int(maps.end_ids[0])) >= host.end_ids


def test_groups_are_what_their_definition_says(pair: Pair) -> None:
    maps: AlignmentMaps = pair.maps
    random = np.random.default_rng(0)
    for token in random.integers(0, len(pair.expert), 30).tolist():
        wanted = set(np.flatnonzero(np.asarray(maps.first_expert) == token).tolist())
        if maps.first_host[token] != NOTHING:
            wanted.add(int(maps.first_host[token]))
        assert group_of(maps, token) == wanted


def test_duplicates_resolve_to_the_tokenizers_own_choice(
    gemma: ByteVocabulary, smollm2: ByteVocabulary
) -> None:
    twins = [token for token, data in enumerate(gemma.token_bytes) if data == b"\n"]
    assert len(twins) > 1
    maps = build_maps(smollm2, gemma)
    newline = smollm2.encode(b"\n")[0]
    assert maps.first_expert[newline] == gemma.encode(b"\n")[0]


def with_ends(kind: str, *tokens: str) -> ByteVocabulary:
    tokenizer = TRAINED[kind](420)
    vocabulary = tokenizer.get_vocab()
    ends = frozenset(vocabulary[token] for token in tokens)
    return ByteVocabulary.from_backend(tokenizer, name=kind, end_ids=ends)


@pytest.fixture
def ending() -> Pair:
    """A pair where either model has two end tokens."""
    return Pair(
        with_ends("byte-level", "<|end|>", "<|user|>"), with_ends("sentencepiece", "<s>", "</s>")
    )


def at_ends(pair: Pair, masses: list[float], word: bytes = b"the") -> ExpertTopK:
    """Return the expert's distribution with `masses` on its end tokens and 0.25 on a word's."""
    ends = sorted(pair.expert.end_ids)
    said = {pair.expert.encode(word)[0]: 0.25} | dict(zip(ends, masses, strict=True))
    known = {token: float(np.log(mass)) for token, mass in said.items() if mass}
    row = (list(known), list(known.values()))
    return checked_top_k([row], vocabulary=len(pair.expert), end_ids=pair.maps.end_ids)


@pytest.mark.parametrize("masses", [[0.5, 0.0], [0.0, 0.5], [0.2, 0.3]])
def test_the_end_is_one_event_whichever_tokens_stand_for_it(
    ending: Pair, masses: list[float]
) -> None:
    logits = some_row(len(ending.host), seed=1)
    q = q_of(logits, align(logits, np.arange(1), at_ends(ending, masses), ending.maps))[0]
    ends = sorted(ending.host.end_ids)
    assert q[ends].sum().item() == pytest.approx(0.5, rel=1e-4)
    # The host's own probabilities decide among its ends.
    host = torch.softmax(logits.double(), dim=-1)[0]
    assert (q[ends[0]] / q[ends[1]]).item() == pytest.approx(
        (host[ends[0]] / host[ends[1]]).item(), rel=1e-4
    )


@pytest.mark.parametrize("masked", [0, 1])
def test_any_end_that_is_feasible_takes_the_end(ending: Pair, masked: int) -> None:
    logits = some_row(len(ending.host), seed=2)
    ends = sorted(ending.host.end_ids)
    logits[0, ends[masked]] = -torch.inf
    q = q_of(logits, align(logits, np.arange(1), at_ends(ending, [0.2, 0.3]), ending.maps))[0]
    assert q[ends[1 - masked]].item() == pytest.approx(0.5, rel=1e-4)
    assert q[ends[masked]].item() == 0.0


def test_an_end_that_is_not_feasible_goes_back_to_what_is(ending: Pair) -> None:
    logits = some_row(len(ending.host), seed=3)
    logits[0, sorted(ending.host.end_ids)] = -torch.inf
    q = q_of(logits, align(logits, np.arange(1), at_ends(ending, [0.2, 0.3]), ending.maps))[0]
    assert q.sum().item() == pytest.approx(1.0, rel=1e-4)
    word = group_of(ending.maps, ending.expert.encode(b"the")[0])
    assert q[sorted(word)].sum().item() == pytest.approx(0.5, rel=1e-4)


def test_one_tokenizer_under_models_that_end_differently() -> None:
    """A base model and its instruct model: the text is the identity, the ends are joined."""
    base = with_ends("byte-level", "<|end|>")
    instruct = with_ends("byte-level", "<|end|>", "<|user|>")
    pair = Pair(base, instruct)
    (end,) = base.end_ids
    text = [token for token, data in enumerate(base.token_bytes) if data is not None]
    assert np.array_equal(pair.maps.first_expert[text], text)
    assert np.array_equal(pair.maps.first_host[text], text)
    assert pair.maps.end_ids.tolist() == sorted(instruct.end_ids)
    assert base.end_ids <= group_of(pair.maps, int(pair.maps.end_ids[0]))
    logits = some_row(len(base), seed=4)
    q = q_of(logits, align(logits, np.arange(1), at_ends(pair, [0.2, 0.3]), pair.maps))[0]
    assert q[end].item() == pytest.approx(0.5, rel=1e-4)


def test_a_model_without_an_end_leaves_the_others_alone() -> None:
    host, expert = with_ends("byte-level", "<|end|>"), with_ends("sentencepiece")
    maps = build_maps(host, expert)
    assert maps.end_ids.tolist() == []
    assert maps.first_expert[sorted(host.end_ids)].tolist() == [NOTHING]


def test_progress_is_reported_and_reaches_the_end() -> None:
    host, expert = with_ends("byte-level", "<|end|>"), with_ends("sentencepiece", "</s>")
    reported: list[tuple[int, int]] = []
    build_maps(host, expert, progress=lambda done, total: reported.append((done, total)))
    assert reported[-1] == (len(host) + len(expert),) * 2
    assert reported == sorted(reported)


@pytest.fixture(scope="module")
def host() -> ByteVocabulary:
    return trained_vocabulary("byte-level")


@pytest.fixture(scope="module")
def expert() -> ByteVocabulary:
    return trained_vocabulary("sentencepiece")


def same(first: AlignmentMaps, second: AlignmentMaps) -> bool:
    return all(
        np.array_equal(array, getattr(second, name)) and array.dtype == getattr(second, name).dtype
        for name, array in vars(first).items()
    )


def test_maps_are_built_once_and_kept_in_one_file(
    tmp_path: Path, host: ByteVocabulary, expert: ByteVocabulary
) -> None:
    first = keep(host, expert, folder=tmp_path)
    second = keep(host, expert, folder=tmp_path)
    assert (first.built, second.built) == (True, False)
    assert same(first.maps, build_maps(host, expert))
    assert same(first.maps, second.maps)
    assert first.file == tmp_path / f"{maps_key(host, expert)}.safetensors"
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".lock"}
    assert maps_key(host, expert) != maps_key(expert, host)


def test_maps_of_equal_tokenizers_are_kept_too(tmp_path: Path, host: ByteVocabulary) -> None:
    """Their maps contain an empty array, a view of zero bytes."""
    load_maps(host, host, folder=tmp_path)
    assert keep(host, host, folder=tmp_path).maps.end_ids.tolist() == []


def test_all_arrays_are_read_only_views_of_the_mapped_file(
    tmp_path: Path, host: ByteVocabulary, expert: ByteVocabulary
) -> None:
    maps = load_maps(host, expert, folder=tmp_path)
    for name, array in vars(maps).items():
        assert type(array) is np.ndarray, name
        assert not array.flags.owndata, name
        assert not array.flags.writeable, name
        assert array.flags.aligned, name
    mapped = Path("/proc/self/maps").read_text()
    assert re.search(rf"{re.escape(maps_key(host, expert))}\.safetensors$", mapped, re.MULTILINE)


def test_the_maps_of_large_vocabularies_load_at_once(
    tmp_path: Path, gemma: ByteVocabulary, smollm2: ByteVocabulary
) -> None:
    begun = time.monotonic()
    assert keep(gemma, smollm2, folder=tmp_path).built
    built = time.monotonic()
    assert not keep(gemma, smollm2, folder=tmp_path).built
    assert time.monotonic() - built < 0.2 * (built - begun)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def emptied(content: bytes) -> bytes:
    return b""


def zeroed(content: bytes) -> bytes:
    return bytes(len(content))


def one_bit_flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def lengthened(content: bytes) -> bytes:
    return content + b"more"


def with_other_names(content: bytes) -> bytes:
    return content.replace(b"first_host", b"other_host", 1)


def without_digest(content: bytes) -> bytes:
    return content.replace(b"sha256", b"SHA256", 1)


def with_a_header_of_nonsense(content: bytes) -> bytes:
    return content[:8] + b"\xff" + content[9:]


def a_list(content: bytes) -> bytes:
    return (2).to_bytes(8, "little") + b"[]" + content


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        emptied,
        zeroed,
        one_bit_flipped,
        lengthened,
        with_other_names,
        without_digest,
        with_a_header_of_nonsense,
        a_list,
    ],
)
def test_a_damaged_file_is_built_anew(
    tmp_path: Path,
    host: ByteVocabulary,
    expert: ByteVocabulary,
    damage: Callable[[bytes], bytes],
) -> None:
    kept = keep(host, expert, folder=tmp_path)
    whole = kept.file.read_bytes()
    kept.file.unlink()  # the mapping of the previous file is still in use
    kept.file.write_bytes(damage(whole))
    again = keep(host, expert, folder=tmp_path)
    assert again.built
    assert same(again.maps, kept.maps)
    assert kept.file.read_bytes() == whole


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path,
    host: ByteVocabulary,
    expert: ByteVocabulary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:  # a test cannot fill a disk
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(FloeError, match=r"^The alignment maps .* No space left .*\.$"):
            load_maps(host, expert, folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(load_maps(host, expert, folder=tmp_path).members) > 0


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(
    tmp_path: Path, host: ByteVocabulary, expert: ByteVocabulary
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FloeError, match=r"cannot be kept in '.*': Not a directory; FLOE_CACHE_DIR"):
        load_maps(host, expert, folder=tmp_path / "file" / "alignment")


def _ask(folder: Path, answers: multiprocessing.Queue[tuple[int, bool]]) -> None:
    kept = keep(
        trained_vocabulary("byte-level"), trained_vocabulary("sentencepiece"), folder=folder
    )
    answers.put((os.getpid(), kept.built))


def test_processes_that_ask_at_once_wait_for_one_builder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[int, bool]] = context.Queue()
    processes = [context.Process(target=_ask, args=(tmp_path, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    built = [answers.get(timeout=60)[1] for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sorted(built) == [False, False, True]
