"""Maps on disk: complete or not at all, never trusted when damaged, shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from floe_plugins.errors import FloeError
from vllm_logits_processor.alignment.cache import keep, load_maps
from vllm_logits_processor.alignment.maps import AlignmentMaps, build_maps, maps_key
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.conftest import trained_vocabulary


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
    """They have an empty array, which is a view of no byte."""
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
    kept.file.unlink()  # the mapping of the file before is still in use
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

    with monkeypatch.context() as patch:  # a full disk cannot be had in a test
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
