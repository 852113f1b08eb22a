"""The detectors that come with Floe."""

from importlib.util import find_spec

from floe_plugins.gate.detector import Detector
from floe_plugins.gate.detectors.accounts import AccountDetector
from floe_plugins.gate.detectors.announced_addresses import AnnouncedAddressDetector
from floe_plugins.gate.detectors.contact import EMAIL, PhoneDetector, PostalAddressDetector
from floe_plugins.gate.detectors.financial import CardDetector, CryptoDetector, IbanDetector
from floe_plugins.gate.detectors.identity_numbers import US_SSN, NationalIdDetector
from floe_plugins.gate.detectors.keywords import KeywordDetector
from floe_plugins.gate.detectors.learned import LearnedDetector
from floe_plugins.gate.detectors.network import IP_ADDRESS, MAC_ADDRESS, PersonalUrlDetector
from floe_plugins.gate.detectors.secrets import SecretDetector
from floe_plugins.gate.detectors.special_categories import StatementDetector
from floe_plugins.gate.detectors.third_party import (
    DetectSecretsDetector,
    GlinerDetector,
    PresidioDetector,
    SpacyDetector,
)

# Used only if a configuration names them and their package is installed.
_OPTIONAL: tuple[tuple[str, Detector], ...] = (
    ("detect_secrets", DetectSecretsDetector()),
    ("gliner", GlinerDetector()),
    ("presidio_analyzer", PresidioDetector()),
    ("spacy", SpacyDetector()),
)

BUILT_IN_DETECTORS: tuple[Detector, ...] = (
    AccountDetector(),
    AnnouncedAddressDetector(),
    KeywordDetector(),
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
    *(detector for package, detector in _OPTIONAL if find_spec(package)),
)
