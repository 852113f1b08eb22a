import pytest

from floe_plugins.gate.detectors.keywords import KeywordDetector

ANNOUNCED = {
    "Meine Führerscheinnummer lautet B072RRE2I55": ("DRIVER_LICENSE", "B072RRE2I55"),
    "mon permis de conduire est 13AA00002": ("DRIVER_LICENSE", "13AA00002"),
    "mi licencia de conducir es 87654321": ("DRIVER_LICENSE", "87654321"),
    "la mia patente di guida è U1B234567C": ("DRIVER_LICENSE", "U1B234567C"),
    "Reisepass-Nr. C01X00T47": ("PASSPORT", "C01X00T47"),
    "mon numéro de passeport est 12AB34567": ("PASSPORT", "12AB34567"),
    "pasaporte número XDB987654": ("PASSPORT", "XDB987654"),
    "il mio passaporto è YA1234567": ("PASSPORT", "YA1234567"),
    "My passport is AB 123456 and it expires": ("PASSPORT", "AB 123456"),
    "Mein Kennzeichen ist B-AB 1234": ("LICENSE_PLATE", "B-AB 1234"),
    "my plate is 7ABC123": ("LICENSE_PLATE", "7ABC123"),
    "ma plaque d'immatriculation est AB-123-CD": ("LICENSE_PLATE", "AB-123-CD"),
    "La mia targa è FX 123 YZ": ("LICENSE_PLATE", "FX 123 YZ"),
    "Meine Steuernummer ist 93815086": ("ID_NUMBER", "93815086"),
    "numéro fiscal : 1234567890123": ("ID_NUMBER", "1234567890123"),
    "numéro de sécurité sociale 295109912611193": ("ID_NUMBER", "295109912611193"),
    "mi DNI es 12345678": ("ID_NUMBER", "12345678"),
    "il mio codice fiscale è RSSMRA80A01H501X": ("ID_NUMBER", "RSSMRA80A01H501X"),
    "Kontonummer 12345678, danke": ("ACCOUNT_NUMBER", "12345678"),
    "numero di conto 000123456789": ("ACCOUNT_NUMBER", "000123456789"),
}


@pytest.mark.parametrize(("text", "expected"), ANNOUNCED.items())
def test_numbers_that_are_announced(text: str, expected: tuple[str, str]) -> None:
    spans = KeywordDetector().detect(text)
    assert expected in [(span.label, text[span.start : span.end]) for span in spans]


@pytest.mark.parametrize(
    "text",
    [
        "a passport is valid for 10 years",
        "the plate has 3 holes",
        "Il numero di conto corrente serve",
        "the social security act of the year 1935",
        "die Steuer ist 19",
        "Der Pass ist in 2000 m Höhe",
        "una carta de 5 puntos",
        "10/31/2011\\n(B) 01/31/2011\\n(C) 06/30/2011",
    ],
)
def test_numbers_that_are_not(text: str) -> None:
    assert KeywordDetector().detect(text.replace("\\n", "\n")) == []
