"""How many of the expert's own next tokens a call asks for: as many as the text tends to follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Weight of the past when another token followed the expert or departed from it.
_DECAY = 0.9
#: A token is asked for ahead while the chance that the text gets there is at least this.
_WORTH = 0.25


@dataclass
class LookAhead:
    """Adapts k, the number of steps of a call, to how far the text has followed lately.

    Parameters
    ----------
    most : int
        Upper limit of k; with 1 nothing is ever asked ahead.
    """

    most: int
    #: Running share of the expert's own tokens that the text took.
    followed: float = 0.7

    def observe(self, *, followed: bool) -> None:
        """Note whether the text took another of the expert's own tokens, or departed from them."""
        self.followed = _DECAY * self.followed + (1 - _DECAY) * followed

    @property
    def steps(self) -> int:
        """The k of the next call, at least 1."""
        if self.followed >= 1:
            return self.most
        wanted = 1 + math.log(_WORTH) / math.log(max(self.followed, 1e-9))
        return max(1, min(self.most, math.floor(wanted)))

    @property
    def worth_asking_ahead(self) -> bool:
        """True where the next call is worth starting before the text has got to its place."""
        return self.most > 1 and self.followed >= 0.5
