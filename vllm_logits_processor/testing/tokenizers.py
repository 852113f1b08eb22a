"""Small tokenizers of five families, trained in milliseconds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

Trainer = Callable[[int], Tokenizer]

CORPUS = [
    "The cat sat on the mat; the mat was flat, and the cat was fat.",
    "def add(first, second):\n    return first + second\n",
    "Naïve café owners paid 12,50 € for 3 crêpes. 你好，世界 — здравствуй, мир!",
    "One hundred and twenty-one thousand people watched the watchers watching.",
]


def byte_level_bpe(size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer of the GPT-2 family."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece_bpe(size: int) -> Tokenizer:
    """Train a BPE tokenizer of the Llama-2 family: byte fallback, a space in front."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>"]
    # The trainer's choice among equally frequent characters differs between processes.
    counts = Counter("▁" + "▁".join(CORPUS).replace(" ", "▁"))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
        initial_alphabet=frequent[:40],
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The trainer can only add byte tokens as special ones; in sentencepiece they are ordinary.
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json.dumps(spec))


def unigram(size: int) -> Tokenizer:
    """Build a unigram tokenizer with byte fallback, as XGLM and T5 successors have."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    scored = [(token, -float(np.log(2 + place))) for place, (token, _) in enumerate(learned)]
    scored += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    tokenizer.model = models.Unigram(scored, unk_id=0, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    )
    return tokenizer


def wordpiece(size: int, *, lowercase: bool = False) -> Tokenizer:
    """Train a WordPiece tokenizer of the BERT family, cased or uncased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


#: Families that can spell every text, byte for byte.
TRAINED: dict[str, Trainer] = {
    "byte-level": byte_level_bpe,
    "sentencepiece": sentencepiece_bpe,
    "unigram": unigram,
}
#: Families that know only words: white space and, if uncased, case and accents are lost.
TRAINED_WORDS: dict[str, Trainer] = {
    "wordpiece": wordpiece,
    "wordpiece-uncased": partial(wordpiece, lowercase=True),
}


def trained_vocabulary(kind: str, size: int = 420) -> ByteVocabulary:
    """Train a tokenizer of a family; return its vocabulary on bytes."""
    return vocabulary_of((TRAINED | TRAINED_WORDS)[kind](size), kind)


def vocabulary_of(tokenizer: Tokenizer, kind: str) -> ByteVocabulary:
    """Return the vocabulary of a tokenizer of this module, under the name of its family."""
    ends = [tokenizer.token_to_id(token) for token in ("<|end|>", "</s>", "[SEP]")]
    return ByteVocabulary.from_backend(
        tokenizer, name=kind, end_ids=frozenset(end for end in ends if end is not None)
    )
