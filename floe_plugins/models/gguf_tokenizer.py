"""The tokenizer of a GGUF file, its end tokens and its padding token."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from floe_plugins.errors import ModelError
from floe_plugins.models.gguf_architectures import Header

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_KEY = "tokenizer.ggml"

# Any of these ends an answer where the chat template writes it.
_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")

# What ends a text beside the turn: tokenizer.ggml.pre -> token, as the models' own
# generation_config.json lists it.
_ENDS_OF_TEXT = {"qwen2": "<|endoftext|>", "llama-bpe": "<|end_of_text|>"}

# Tokens to fill with, best first, where the header names none or the end of a turn.
_PADDING = (
    *("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>"),
    *("<|endoftext|>", "<|fim_pad|>", "<unk>"),
)

# llama.cpp adds a BOS token to texts of these where the header does not say.
_BEGIN_WITH_BOS = ("llama-bpe", "llama3", "llama-v3")

# llama.cpp's converter names ids without a token so; they are behind the vocabulary.
_NO_TOKEN = re.compile(r"\[PAD(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Ids of the tokens that structure a text."""

    bos: int | None
    eos: int | None  # of a turn, for a model with turns
    ends: tuple[int, ...]  # all that end an answer, `eos` first
    pad: int | None


def find_marks(header: Header, tokens: Sequence[str]) -> Marks:
    """Find begin, end and padding tokens.

    The padding is never the end of a turn where there is any other token for it: trainers leave
    padding out of the loss, and the model would not learn to end.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    eos = header.get(f"{_KEY}.eos_token_id")
    kind = header.get(f"{_KEY}.pre")
    template = header.get("tokenizer.chat_template", "")
    ends = [eos, *(header.get(f"{_KEY}.{key}_token_id") for key in ("eot", "eom"))]
    ends += [ids.get(token) for token in _ENDS_OF_TURN if token in template]
    ends += [ids.get(_ENDS_OF_TEXT[pre]) for pre in _ENDS_OF_TEXT if pre == kind]
    pad = header.get(f"{_KEY}.padding_token_id")
    if pad is None or pad == eos:
        others = (ids[token] for token in _PADDING if ids.get(token, eos) != eos)
        pad = next(others, pad)
    return Marks(
        bos=header.get(f"{_KEY}.bos_token_id"),
        eos=eos,
        ends=tuple(dict.fromkeys(each for each in ends if each is not None)),
        pad=pad,
    )


def read_tokenizer(
    gguf_path: Path, header: Header, marks: Marks, *, max_length: int
) -> "PreTrainedTokenizerFast":
    """Convert the tokenizer, and repair what transformers' conversion leaves out.

    Raises
    ------
    ModelError
        transformers knows no tokenizer of this kind.
    """
    from tokenizers import pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pre_tokenizer = header.get(f"{_KEY}.pre")
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            str(gguf_path.parent), gguf_file=gguf_path.name, clean_up_tokenization_spaces=False
        )
    except (KeyError, ValueError) as error:
        kind = header.get(f"{_KEY}.model")
        raise ModelError(
            f"transformers cannot convert the tokenizer in {gguf_path.name}, of the kind {kind!r}: "
            f"{' '.join(str(error).split())}"
        ) from error
    backend = tokenizer.backend_tokenizer
    if pre_tokenizer == "smollm":
        # SmolLM splits digits off one by one before the byte-level split, which decides how the
        # spaces before a number are split (llama.cpp: LLAMA_VOCAB_PRE_TYPE_SMOLLM).
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    begins = header.get(
        f"{_KEY}.add_bos_token",
        header.get(f"{_KEY}.model") == "llama" or pre_tokenizer in _BEGIN_WITH_BOS,
    )
    bos = None if marks.bos is None else tokenizer.convert_ids_to_tokens(marks.bos)
    if begins and bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, marks.bos)],
        )
    if marks.pad is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(marks.pad)
    tokenizer.model_max_length = max_length
    return tokenizer


def drop_fillers(folder: Path, tokens: Sequence[str]) -> None:
    """Take the names of ids without a token out of a saved tokenizer.

    They are rows of the embedding alone: as tokens they would stand for texts such as ``[PAD9]``.
    """
    fillers = {
        token
        for number, token in enumerate(tokens)
        if (found := _NO_TOKEN.fullmatch(token)) and int(found[1]) == number
    }
    if not fillers:
        return
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["added_tokens"] = [
        each for each in content["added_tokens"] if each["content"] not in fillers
    ]
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {
            token: number for token, number in vocabulary.items() if token not in fillers
        }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")
