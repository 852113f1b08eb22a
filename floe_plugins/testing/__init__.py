"""Tests for plugin authors: conformance suites of detectors, routers and experts, and fixtures.

Inherit from a conformance class and set what to test; pytest runs the tests::

    from floe_plugins.testing import DetectorConformance

    class TestBadges(DetectorConformance):
        detector = BadgeDetector()
        examples = ("badge AB-1234",)
        clean = ("a badge of honour",)

The suite of experts is :class:`floe_plugins.testing.experts.ExpertConformance`: importing it from
there spares those who write detectors the serving half's libraries. The fixtures are in
:mod:`floe_plugins.testing.fixtures`. All need pytest; Floe itself does not.
"""

import pytest

# Before the import, so that a failed assertion in them shows the values.
pytest.register_assert_rewrite(
    *(f"floe_plugins.testing.{name}" for name in ("detectors", "experts", "routers"))
)

from floe_plugins.testing.detectors import DetectorConformance  # noqa: E402
from floe_plugins.testing.routers import RouterConformance  # noqa: E402

__all__ = ["DetectorConformance", "RouterConformance"]
