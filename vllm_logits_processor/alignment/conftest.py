"""Fixtures of the alignment tests: tokenizers that come with packages."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers.convert_slow_tokenizer import generate_merges
from transformers.integrations.mistral.tokenizer import MistralConverter

from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

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
