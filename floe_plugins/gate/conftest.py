"""What the tests of the gate share."""

STRUCTURED = ("card", "email", "iban", "ip-address", "phone", "secret", "us-ssn")
"""Detectors that find the same today and tomorrow: what is tested here is the gate, not them."""
