"""Tests for plugin authors: conformance suites of detectors and routers, and pytest fixtures.

Inherit from a conformance class and set what to test; pytest runs the tests::

    from floe_plugins.testing import DetectorConformance

    class TestBadges(DetectorConformance):
        detector = BadgeDetector()
        examples = ("badge AB-1234",)
        clean = ("a badge of honour",)

The fixtures are in :mod:`floe_plugins.testing.fixtures`. They need pytest; Floe itself does not.
"""

import pytest

# Before the import, so that a failed assertion in them shows the values.
pytest.register_assert_rewrite("floe_plugins.testing.detectors", "floe_plugins.testing.routers")

from floe_plugins.testing.detectors import DetectorConformance  # noqa: E402
from floe_plugins.testing.routers import RouterConformance  # noqa: E402

__all__ = ["DetectorConformance", "RouterConformance"]
