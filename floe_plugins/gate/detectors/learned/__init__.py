"""A small learned detector of names, places, addresses and organisations."""

from floe_plugins.gate.detectors.learned.detector import LearnedDetector, Thresholds

__all__ = ["LearnedDetector", "Thresholds"]
