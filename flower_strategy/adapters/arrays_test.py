import io
import tokenize
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array
from numpy.typing import NDArray

from flower_strategy.adapters.arrays import to_numpy


@pytest.mark.parametrize(
    "numbers",
    [
        np.arange(12, dtype=np.int8).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.zeros((0, 5), np.float16),
        np.array(2.5),
        np.arange(3, dtype=">f4"),
    ],
)
def test_the_numbers_are_those_of_flowers_own_way(numbers: NDArray[np.generic]) -> None:
    array = Array(numbers)
    for _ in range(2):
        found, expected = to_numpy(array), array.numpy()
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape, found.flags.writeable) == (
            expected.dtype,
            expected.shape,
            True,
        )


def array_of(data: bytes, *, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="float32", shape=(4,), stype=stype, data=data)


def written(numbers: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    write: Callable[..., None] = np.lib.format.write_array
    write(file, numbers, **options)
    return file.getvalue()


def test_a_later_format_is_read_too() -> None:
    later = written(np.arange(4.0), version=(2, 0))
    np.testing.assert_array_equal(to_numpy(array_of(later)), np.arange(4.0))


def test_what_cannot_be_read_is_refused() -> None:
    whole = Array(np.arange(4, dtype=np.float32)).data
    objects = written(np.array([{}], object), allow_pickle=True)
    for data in (whole[:-1], whole[:40], whole[:9], b"", b"no array", objects):
        with pytest.raises((ValueError, EOFError, tokenize.TokenError)):
            to_numpy(array_of(data))
    with pytest.raises(ValueError, match="buffer"):
        to_numpy(array_of(whole.replace(b"(4,)", b"(9,)")))
    with pytest.raises(TypeError, match="another"):
        to_numpy(array_of(whole, stype="another"))
