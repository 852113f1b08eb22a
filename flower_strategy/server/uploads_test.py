import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.server.uploads import (
    UPLOADS_FILE,
    Upload,
    UploadError,
    UploadStore,
    checkpoint_files,
    files_of,
)


def adapter(seed: int = 0) -> AdapterState:
    generator = np.random.default_rng(seed)
    b, a = generator.normal(size=(6, 2)), generator.normal(size=(2, 4))
    return AdapterState({"x.q_proj": LoraFactors(b=b.astype("f"), a=a.astype("f"))}, scaling=2.0)


def test_what_is_written_is_read_as_it_came(tmp_path: Path) -> None:
    store = UploadStore(tmp_path / "uploads")
    one, two = adapter(1), adapter(2)
    first = store.write("round-0001-node-7", int8.encode(one))
    second = store.write("round-0001-cluster/0", two.to_arrays())
    assert (first, second) == ("round-0001-node-7.safetensors", "round-0001-cluster-0.safetensors")
    store.sync()
    expected = {first: int8.rounded(one), second: two}
    for file, known in expected.items():
        found = store.read(file, scaling=2.0)
        assert found.scaling == 2.0
        factors = found.layers["x.q_proj"]
        np.testing.assert_array_equal(factors.b, known.layers["x.q_proj"].b)
        np.testing.assert_array_equal(factors.a, known.layers["x.q_proj"].a)


def test_files_that_neither_the_run_nor_a_checkpoint_needs_are_removed(tmp_path: Path) -> None:
    store = UploadStore(tmp_path / "uploads")
    files = [store.write(f"file-{number}", adapter().to_arrays()) for number in range(4)]
    # Also rounds that a resumed run repeats: they may be resumed from again.
    for folder, needed in (("round-0002", files[1:2]), ("round-0003.abandoned", files[2:3])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / UPLOADS_FILE).write_text(json.dumps(needed))
    assert checkpoint_files(tmp_path / "round-0002") == {files[1]}
    store.keep_only(files[:1])
    assert {path.name for path in (tmp_path / "uploads").iterdir()} == set(files[:3])


def test_a_run_that_goes_on_elsewhere_takes_its_files_along(tmp_path: Path) -> None:
    first, other = UploadStore(tmp_path / "first"), UploadStore(tmp_path / "other")
    file = first.write("one", adapter().to_arrays())
    other.take_over({7: Upload(began=1, file=file)}, first.folder)
    first.keep_only([])
    assert not (first.folder / file).exists()
    assert other.read(file).shapes == {"x.q_proj": (6, 4)}
    (first.folder / "two.safetensors").mkdir()
    with pytest.raises(UploadError, match=r"two\.safetensors cannot be taken over from"):
        other.take_over({7: Upload(began=1, file="two.safetensors")}, first.folder)


def test_a_run_goes_on_without_a_missing_upload_and_not_without_an_anchor(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    first, other = UploadStore(tmp_path / "first"), UploadStore(tmp_path / "other")
    file = first.write("one", adapter().to_arrays())
    uploads = {7: Upload(began=1, file="gone.safetensors"), 8: Upload(began=1, file=file)}
    other.take_over(uploads, first.folder)
    assert other.read(file).shapes == {"x.q_proj": (6, 4)}
    assert (
        "lacks 1 of the uploads that the checkpoint names, among them gone.safetensors" in log.text
    )
    uploads[8] = replace(uploads[8], anchor="ground.safetensors")
    said = r"lacks ground\.safetensors, .*folder uploads/ must be copied too"
    with pytest.raises(UploadError, match=said):
        other.take_over(uploads, first.folder)


def test_without_an_output_folder_the_files_end_with_the_store() -> None:
    store = UploadStore()
    file = store.write("one", adapter().to_arrays())
    folder = store.folder
    store.sync()
    assert (folder / file).is_file()
    store.keep_only([])
    assert not (folder / file).exists()
    del store
    gc.collect()
    assert not folder.exists()


def test_what_is_gone_or_damaged_is_one_sentence(tmp_path: Path) -> None:
    store = UploadStore(tmp_path)
    with pytest.raises(UploadError, match=r"none\.safetensors in .* is gone"):
        store.read("none.safetensors")
    file = store.write("one", adapter().to_arrays())
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:20])
    with pytest.raises(UploadError, match=r"one\.safetensors in .* is gone"):
        store.read(file)
    (tmp_path / "file").write_text("")
    with pytest.raises(UploadError, match=r"one\.safetensors cannot be kept in"):
        UploadStore(tmp_path / "file").write("one", adapter().to_arrays())


def test_an_upload_needs_its_own_file_and_its_anchors() -> None:
    uploads = {
        1: Upload(began=1, file="a"),
        2: Upload(began=2, file="b", anchor="c"),
        3: Upload(began=1),
    }
    assert files_of(uploads) == {"a", "b", "c"}
    assert uploads[1].after_a_miss().after_a_miss() == Upload(began=1, file="a", missed=2)
