"""Reports progress on standard error, so that standard output holds only results."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints steps with the seconds since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._noted = 0.0

    def step(self, text: str) -> None:
        """Announce a step."""
        self._print(f"\n[{self.seconds:4.0f} s] {text}")

    def note(self, text: str) -> None:
        """Print a note about the current step."""
        self._print(f"         {text}")

    def waiting(self, what: str, seconds: float) -> None:
        """Report every ten seconds what is being waited for."""
        if self.seconds - self._noted >= 10:
            self._noted = self.seconds
            self.note(f"waiting for {what}, {seconds:.0f} s so far")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
