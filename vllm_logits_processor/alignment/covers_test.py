"""Covers against an oracle: exact next-byte probabilities, by brute force over all texts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vllm_logits_processor.alignment import covers
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.covers import Covered, covered, wanted_offsets
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import build_maps
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.remainders import with_remainders
from vllm_logits_processor.alignment.spelling import BYTE_TO_CHAR
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.testing.alignment import factors_of

ALPHABET = "ab é"
LONGEST = 4
TEXTS = ["".join(chars) for size in range(LONGEST + 1) for chars in product(ALPHABET, repeat=size)]
END = "<|end|>"
KINDS = ("byte-level", "llama", "gemma", "unigram")
ORACLE = settings(deadline=None, max_examples=60)


def pieces(symbols: list[str], space: str, seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a random vocabulary and its merges; no token has a space after a letter."""
    random = np.random.default_rng(seed)
    tokens, merges = list(symbols), []
    for _ in range(int(random.integers(4, 30))):
        left, right = (tokens[at] for at in random.integers(0, len(tokens), 2))
        crosses = space in right and left.strip(space)
        if crosses or left + right in tokens or len(left + right) > 6:
            continue
        tokens.append(left + right)
        merges.append((left, right))
    return tokens, merges


def small_vocabulary(kind: str, seed: int) -> ByteVocabulary:
    """Build a random tokenizer of one family over the bytes of `ALPHABET`."""
    if kind == "byte-level":
        symbols = [BYTE_TO_CHAR[byte] for byte in sorted(set(ALPHABET.encode()))]
        tokens, merges = pieces(symbols, "Ġ", seed)
        tokenizer = Tokenizer(models.BPE({t: at for at, t in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        fallback = [f"<0x{byte:02X}>" for byte in ALPHABET.encode()]
        known = ["a", "b", "▁", "é"][: 3 + seed % 2]
        tokens, merges = pieces(known, "▁", seed)
        vocabulary = {t: at for at, t in enumerate(["<unk>", *fallback, *tokens])}
        if kind == "unigram":
            scores = np.random.default_rng(seed).uniform(-9, -1, len(vocabulary))
            entries = [(t, float(scores[at])) for t, at in vocabulary.items()]
            tokenizer = Tokenizer(models.Unigram(entries, unk_id=0, byte_fallback=True))
        else:
            tokenizer = Tokenizer(
                models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
            )
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        if kind != "gemma":
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END])
    end = tokenizer.get_vocab(with_added_tokens=True)[END]
    return ByteVocabulary.from_backend(tokenizer, name=kind, end_ids=frozenset({end}))


@dataclass
class Oracle:
    """A random model that writes all of `TEXTS` as its tokenizer does, and nothing else."""

    vocabulary: ByteVocabulary
    following: dict[tuple[int, ...], dict[int, float]]
    probability: dict[bytes, float]

    @classmethod
    def random(cls, kind: str, seed: int) -> Oracle:
        vocabulary = small_vocabulary(kind, seed)
        (end,) = vocabulary.end_ids
        following: dict[tuple[int, ...], dict[int, float]] = defaultdict(dict)
        # GPT-2's pattern splits two spaces differently if a word follows.
        texts = [text.encode() for text in TEXTS if kind != "byte-level" or "  " not in text]
        paths = {data: (*vocabulary.encode(data), end) for data in texts}
        for ids in paths.values():
            for at, token in enumerate(ids):
                following[ids[:at]][token] = 0.0
        random = np.random.default_rng(seed + 1)
        for path, tokens in following.items():
            masses = random.dirichlet(np.full(len(tokens), 0.4))
            following[path] = dict(zip(tokens, masses.tolist(), strict=True))
        probability = {
            data: float(np.prod([following[ids[:at]][token] for at, token in enumerate(ids)]))
            for data, ids in paths.items()
        }
        assert sum(probability.values()) == pytest.approx(1)
        return cls(vocabulary, dict(following), probability)

    def next_bytes(self, text: bytes) -> dict[int, float]:
        """Return the exact probability of each byte after `text`, and of its end as -1."""
        masses: dict[int, float] = defaultdict(float)
        for data, probability in self.probability.items():
            if data.startswith(text):
                masses[data[len(text)] if len(data) > len(text) else -1] += probability
        total = sum(masses.values())
        return {byte: mass / total for byte, mass in masses.items()} if total > 0 else {}

    def row(self, ids: list[int], k: int) -> ExpertTopK:
        # A path that the model never takes gets an arbitrary answer.
        masses = self.following.get(tuple(ids), {0: 1.0})
        top = sorted(masses.items(), key=lambda item: -item[1])[:k]
        with np.errstate(divide="ignore"):
            logprobs = np.log([mass for _, mass in top])
        return ExpertTopK(
            token_ids=np.array([[token for token, _ in top]]), logprobs=logprobs[None]
        )

    def receive(self, text: bytes, k: int) -> tuple[ExpertPrefix, dict[int, ExpertTopK]]:
        # A text needs a front for its beginning to be requested.
        prefix = ExpertPrefix(self.vocabulary, tuple(self.vocabulary.end_ids))
        prefix.extend(text)
        offsets = range(prefix.boundary(), prefix.length + 1)
        return prefix, {at: self.row(prefix.token_ids_to(at)[1:], k) for at in offsets}

    def by_byte(self, found: Covered) -> dict[int, float]:
        masses: dict[int, float] = defaultdict(float)
        top = found.top
        for token, logprob in zip(top.token_ids[0].tolist(), found.logprobs[0], strict=True):
            masses[(self.vocabulary.token_bytes[token] or b"\xff")[0]] += float(np.exp(logprob))
        for rest, mass in found.remainders.items():
            masses[rest[0]] += mass
        return {byte if byte != 0xFF else -1: mass for byte, mass in masses.items()}


def cut_text(seed: int) -> bytes:
    random = np.random.default_rng(seed + 2)
    data = TEXTS[int(random.integers(1, len(TEXTS)))].encode()
    return data[: int(random.integers(0, len(data) + 1))]


@pytest.mark.parametrize("kind", KINDS)
@ORACLE
@given(seed=st.integers(0, 10**6))
def test_covered_is_exact_where_all_is_known(kind: str, seed: int) -> None:
    oracle, text = Oracle.random(kind, seed), cut_text(seed)
    exact = oracle.next_bytes(text)
    if not exact:
        return
    found = covered(*oracle.receive(text, k=1000))
    assert found.unexpanded == pytest.approx(0, abs=1e-9)
    ours = oracle.by_byte(found)
    assert sum(ours.values()) == pytest.approx(1, abs=1e-9)
    for byte in exact.keys() | ours.keys():
        assert ours.get(byte, 0.0) == pytest.approx(exact.get(byte, 0.0), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@ORACLE
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4), most=st.integers(0, 3))
def test_what_is_not_known_stays_within_the_bound(kind: str, seed: int, k: int, most: int) -> None:
    oracle, text = Oracle.random(kind, seed), cut_text(seed)
    exact = oracle.next_bytes(text)
    if not exact:
        return
    prefix, everything = oracle.receive(text, k)
    received: dict[int, ExpertTopK] = {}
    # As in the engine: wanted offsets are requested once, then the step continues.
    for offset in wanted_offsets(prefix, received, most=most):
        received[offset] = everything[offset]
    found = covered(prefix, received)
    known = oracle.by_byte(found)
    tail = max(0.0, 1 - sum(known.values()))
    for byte in exact.keys() | known.keys():
        least, most_ = known.get(byte, 0.0), known.get(byte, 0.0) + tail
        assert least - found.unexpanded - 1e-9 <= exact.get(byte, 0.0)
        assert exact.get(byte, 0.0) <= most_ + found.unexpanded + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@ORACLE
@given(seed=st.integers(0, 10**6))
@example(seed=106879)
def test_asking_for_what_is_wanted_ends_with_all_that_matters(kind: str, seed: int) -> None:
    oracle, text = Oracle.random(kind, seed), cut_text(seed)
    if not oracle.next_bytes(text):
        return
    prefix, everything = oracle.receive(text, k=1000)
    received: dict[int, ExpertTopK] = {}
    first = wanted_offsets(prefix, received, most=1)
    assert first[0] == prefix.length
    assert len(first) <= 2
    # Random models cross the end from any node, unlike language models.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covers, "_GOES_ON", 1.0)
        while wanted := wanted_offsets(prefix, received, most=1):
            assert not set(wanted) & set(received)
            for offset in wanted:
                received[offset] = everything[offset]
    assert covered(prefix, received).unexpanded <= 0.1


@pytest.mark.parametrize("kinds", [("byte-level", "gemma"), ("llama", "byte-level")])
@ORACLE
@given(seed=st.integers(0, 10**6))
def test_the_alignment_has_the_experts_next_byte(kinds: tuple[str, str], seed: int) -> None:
    host, oracle = small_vocabulary(kinds[0], seed + 7), Oracle.random(kinds[1], seed)
    text = cut_text(seed)
    exact = oracle.next_bytes(text)
    if not exact:
        return
    found = covered(*oracle.receive(text, k=1000))
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, len(host)))).float()
    top = with_remainders(found, host)
    aligned = align(logits, np.arange(1), top, build_maps(host, oracle.vocabulary))
    factors = torch.from_numpy(factors_of(aligned, len(host))[0])
    fused = torch.softmax(logits[0].double(), dim=-1) * factors
    ours: dict[int, float] = defaultdict(float)
    for token, mass in enumerate(fused.tolist()):
        data = host.token_bytes[token]
        ours[data[0] if data else -1] += mass
    for byte in exact.keys() | ours.keys():
        # The least likely remainders are left to the tail.
        assert ours.get(byte, 0.0) == pytest.approx(exact.get(byte, 0.0), abs=5e-3)


def test_no_cover_is_wanted_where_nothing_goes_on_over_the_end(smollm2: ByteVocabulary) -> None:
    prefix = ExpertPrefix(smollm2, [1])
    assert wanted_offsets(prefix, {}, most=3) == [0]
    # No token of SmolLM2 begins with "7." or continues after a digit.
    prefix.extend(b"The sum is 17")
    assert wanted_offsets(prefix, {}, most=3) == [13]
    prefix.extend(b" wat")
    assert wanted_offsets(prefix, {}, most=3)[:2] == [17, 13]
    assert wanted_offsets(prefix, {}, most=0) == [17]


def test_nothing_is_asked_about_no_tokens(smollm2: ByteVocabulary) -> None:
    prefix = ExpertPrefix(smollm2)
    assert wanted_offsets(prefix, {}, most=3) == []
    prefix.extend(b"wat")
    assert wanted_offsets(prefix, {}, most=3) == [3]


def test_a_text_that_stops_inside_a_word_goes_on_with_it(smollm2: ByteVocabulary) -> None:
    prefix = ExpertPrefix(smollm2)
    prefix.extend(b"A glass of wat")
    (water,) = smollm2.encode(b" water")
    (end,) = smollm2.encode(b" wat")[-1:]
    wat = smollm2.encode(b" wat")
    surprised = ExpertTopK(token_ids=np.array([[end]]), logprobs=np.log([[0.5]]))
    received = {prefix.length: surprised}
    for at, _ in enumerate(wat):
        offset = prefix.boundary() + len(smollm2.decode(wat[:at]))
        ids, masses = [water, wat[at]], [0.8, 0.01]
        received[offset] = ExpertTopK(token_ids=np.array([ids]), logprobs=np.log([masses]))
    found = covered(prefix, received)
    assert list(found.remainders) == [b"er"]
    assert found.remainders[b"er"] > 0.9
    assert np.exp(found.logprobs).sum() + found.remainders[b"er"] <= 1 + 1e-9
    # The text does not continue with what the host would have written as one token.
    refused = covered(prefix, received, admits=lambda rest: rest != b"er")
    assert not refused.remainders
    assert refused.logprobs == pytest.approx(surprised.logprobs)
