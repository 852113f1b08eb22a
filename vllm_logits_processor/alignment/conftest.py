"""What the tests of alignment share: tokenizers that come with packages, and a step in full."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers.convert_slow_tokenizer import generate_merges
from transformers.integrations.mistral.tokenizer import MistralConverter

from vllm_logits_processor.alignment.align import Aligned
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import FloatArray, IntArray
from vllm_logits_processor.fusion import Weights, fused_cells

SHIPPED = Path(str(files("mistral_common"))) / "data"


def sentencepiece_of_llama(file: Path) -> Tokenizer:
    """Read a sentencepiece model as the Llama family does; 32,000 tokens for Mistral 7B."""
    model = SentencePieceProcessor(model_file=str(file))
    pieces = {model.id_to_piece(token): token for token in range(model.vocab_size())}
    ordinary = {
        piece: model.get_score(token)
        for piece, token in pieces.items()
        if not (model.is_control(token) or model.is_unknown(token) or model.is_byte(token))
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocab=pieces,
            merges=generate_merges(pieces, ordinary),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [AddedToken(piece, special=True) for piece in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    return tokenizer


def group_of(maps: AlignmentMaps, expert_token: int) -> set[int]:
    """Return the host tokens that begin what `expert_token` means: its group by f, and g of it."""
    begin, end = maps.offsets[expert_token], maps.offsets[expert_token + 1]
    tokens = {int(token) for token in maps.members[begin:end]}
    extra = int(maps.extra[expert_token])
    return tokens if extra == NOTHING else tokens | {extra}


def factors_of(aligned: Aligned, columns: int) -> FloatArray:
    """Return the factor m of every token, shape (rows, columns)."""
    groups = aligned.groups
    tails = groups.without_singles(aligned.factors)[0][:, -1:]
    factors = np.repeat(tails, columns, axis=1)
    rows = np.repeat(np.arange(len(groups.sizes)), groups.sizes.sum(axis=1))
    factors[rows, groups.tokens(aligned.maps)] = groups.spread(aligned.factors)
    return factors


def fuse(logits: torch.Tensor, rows: IntArray, aligned: Aligned, weights: Weights) -> None:
    """Turn the host's logits of some rows into fused ones, in place."""
    fused_cells(logits, rows, aligned, weights).write(logits)


@pytest.fixture(scope="session")
def mistral() -> ByteVocabulary:
    """Mistral 7B: sentencepiece BPE with byte fallback, of the Llama-2 family."""
    tokenizer = sentencepiece_of_llama(SHIPPED / "tokenizer.model.v1")
    return ByteVocabulary.from_backend(tokenizer, name="mistral", end_ids=frozenset({2}))


@pytest.fixture(scope="session")
def tekken() -> ByteVocabulary:
    """Mistral Nemo: byte-level BPE of the tiktoken family, 131,072 tokens."""
    tokenizer = MistralConverter(str(SHIPPED / "tekken_240911.json")).converted()
    return ByteVocabulary.from_backend(tokenizer, name="tekken", end_ids=frozenset({2}))
