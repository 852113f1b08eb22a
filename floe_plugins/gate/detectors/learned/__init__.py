"""A small learned detector of names, places, addresses and organisations."""

from floe_plugins.gate.detectors.learned.detector import LearnedDetector

__all__ = ["LearnedDetector"]
