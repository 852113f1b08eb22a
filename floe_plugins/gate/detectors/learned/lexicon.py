"""What is known of words by themselves: how common they are, and whether they are names.

A word's code packs, from the lowest digit: first name (0-2), surname (0-2), place (0-3), how common
the word is in English (0-5), and whether it is used as a common word (0-1).
"""

from zlib import crc32

import numpy as np
import numpy.typing as npt

FIRST, LAST, PLACE, COMMON, PLAIN = 1, 3, 9, 36, 216
"""What one step of each digit of a code adds."""


class Lexicon:
    """Codes of words, by a hash of theirs.

    Parameters
    ----------
    hashes : array of uint32
        Ascending.
    codes : array of uint16
        As many.
    """

    def __init__(self, hashes: npt.NDArray[np.uint32], codes: npt.NDArray[np.uint16]) -> None:
        self.hashes = hashes
        self.codes = codes
        self._codes: dict[int, int] = dict(zip(hashes.tolist(), codes.tolist(), strict=True))

    def get(self, word: str, default: int = 0) -> int:
        """Return the code of a lower-case word, or the default."""
        return self._codes.get(key_of(word), default)

    @classmethod
    def of(cls, codes: dict[str, int]) -> "Lexicon":
        """Make a lexicon; of words with the same hash the last in order is kept."""
        by_hash = {key_of(word): code for word, code in sorted(codes.items())}
        hashes = sorted(by_hash)
        return cls(
            np.array(hashes, np.uint32), np.array([by_hash[key] for key in hashes], np.uint16)
        )


def key_of(word: str) -> int:
    """Return the hash by which a word is kept."""
    return crc32(word.encode())
