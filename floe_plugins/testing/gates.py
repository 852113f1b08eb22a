"""Gates whose findings do not change with the detectors that Floe ships."""

STRUCTURED = ("card", "email", "iban", "ip-address", "phone", "secret", "us-ssn")
"""Detectors that find the same today and tomorrow: what is tested here is the gate, not them."""
