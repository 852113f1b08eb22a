"""The plugins of Yelp's detect-secrets, where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from floe_plugins.gate.detector import Span


class DetectSecretsDetector:
    """Asks every plugin of `detect-secrets` about every line."""

    name = "detect-secrets"
    labels: Sequence[str] = ("SECRET",)
    default = False

    def load(self) -> None:
        """Import detect-secrets, which takes longer than a text may."""
        importlib.import_module("detect_secrets.settings")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the secrets of a text."""
        settings = importlib.import_module("detect_secrets.settings")
        spans = set()
        start = 0
        with settings.default_settings():
            for line in text.splitlines(keepends=True):
                for plugin in settings.get_plugins():
                    for secret in plugin.analyze_line(filename="text", line=line, line_number=1):
                        value = secret.secret_value or line
                        at = max(0, line.find(value))
                        end = min(len(line), at + len(value))
                        spans.add(Span(start + at, start + end, "SECRET"))
                start += len(line)
        return sorted(spans)
