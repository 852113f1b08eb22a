"""The detectors that come with Floe."""

from floe_plugins.gate.detector import Detector
from floe_plugins.gate.detectors.announced import AnnouncedDetector
from floe_plugins.gate.detectors.card import CardDetector
from floe_plugins.gate.detectors.crypto import CryptoDetector
from floe_plugins.gate.detectors.email import EMAIL
from floe_plugins.gate.detectors.iban import IbanDetector
from floe_plugins.gate.detectors.ip_address import IP_ADDRESS
from floe_plugins.gate.detectors.learned import LearnedDetector
from floe_plugins.gate.detectors.national_id import NationalIdDetector
from floe_plugins.gate.detectors.phone import PhoneDetector
from floe_plugins.gate.detectors.postal_address import PostalAddressDetector
from floe_plugins.gate.detectors.secret import SecretDetector
from floe_plugins.gate.detectors.statement import StatementDetector
from floe_plugins.gate.detectors.us_ssn import US_SSN
from floe_plugins.gate.detectors.web import MAC_ADDRESS, PersonalUrlDetector

BUILT_IN_DETECTORS: tuple[Detector, ...] = (
    AnnouncedDetector(),
    CardDetector(),
    CryptoDetector(),
    EMAIL,
    IbanDetector(),
    IP_ADDRESS,
    LearnedDetector(),
    MAC_ADDRESS,
    NationalIdDetector(),
    PersonalUrlDetector(),
    PhoneDetector(),
    PostalAddressDetector(),
    SecretDetector(),
    StatementDetector(),
    US_SSN,
)
