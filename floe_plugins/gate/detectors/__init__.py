"""The detectors of structured data that come with Floe."""

from floe_plugins.gate.detector import Detector
from floe_plugins.gate.detectors.card import CardDetector
from floe_plugins.gate.detectors.email import EMAIL
from floe_plugins.gate.detectors.iban import IbanDetector
from floe_plugins.gate.detectors.ip_address import IP_ADDRESS
from floe_plugins.gate.detectors.phone import PhoneDetector
from floe_plugins.gate.detectors.secret import SecretDetector
from floe_plugins.gate.detectors.us_ssn import US_SSN

BUILT_IN_DETECTORS: tuple[Detector, ...] = (
    CardDetector(),
    EMAIL,
    IbanDetector(),
    IP_ADDRESS,
    PhoneDetector(),
    SecretDetector(),
    US_SSN,
)
