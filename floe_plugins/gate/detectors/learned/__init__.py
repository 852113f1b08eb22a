"""A small learned detector of names, places, addresses and organisations."""

from floe_plugins.gate.detectors.learned.detector import Finding, LearnedDetector, Thresholds

__all__ = ["Finding", "LearnedDetector", "Thresholds"]
