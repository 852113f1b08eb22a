"""The detectors that come with Floe."""

from importlib.util import find_spec

from floe_plugins.gate.detector import Detector
from floe_plugins.gate.detectors.contact import PhoneDetector
from floe_plugins.gate.detectors.crypto import CryptoDetector
from floe_plugins.gate.detectors.detect_secrets_plugins import DetectSecretsDetector
from floe_plugins.gate.detectors.email import EMAIL
from floe_plugins.gate.detectors.financial import CardDetector
from floe_plugins.gate.detectors.gliner_ner import GlinerDetector
from floe_plugins.gate.detectors.iban import IbanDetector
from floe_plugins.gate.detectors.ip_address import IP_ADDRESS
from floe_plugins.gate.detectors.keywords import AnnouncedDetector
from floe_plugins.gate.detectors.learned import LearnedDetector
from floe_plugins.gate.detectors.national_id import NationalIdDetector
from floe_plugins.gate.detectors.network import MAC_ADDRESS, PersonalUrlDetector
from floe_plugins.gate.detectors.postal_address import PostalAddressDetector
from floe_plugins.gate.detectors.secrets import SecretDetector
from floe_plugins.gate.detectors.spacy_ner import SpacyDetector
from floe_plugins.gate.detectors.special_categories import StatementDetector
from floe_plugins.gate.detectors.third_party import PresidioDetector
from floe_plugins.gate.detectors.us_ssn import US_SSN

# Asked only where a configuration names them, and there only if their package is installed.
_OPTIONAL: tuple[tuple[str, Detector], ...] = (
    ("detect_secrets", DetectSecretsDetector()),
    ("gliner", GlinerDetector()),
    ("presidio_analyzer", PresidioDetector()),
    ("spacy", SpacyDetector()),
)

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
    *(detector for package, detector in _OPTIONAL if find_spec(package)),
)
