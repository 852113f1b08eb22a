"""Detectors for tests of the gate."""

STRUCTURED = ("card", "email", "iban", "ip-address", "phone", "secret", "us-ssn")
"""Detectors of structured data: tests of the gate do not change when Floe ships new detectors."""
