import pytest

from floe_plugins.gate.detectors.keywords import KeywordDetector

DETECTOR = KeywordDetector()


def found(text: str, label: str) -> list[str]:
    return [text[span.start : span.end] for span in DETECTOR.detect(text) if span.label == label]


BIRTHS = {
    "My sister was born in June 1991, I think": "June 1991",
    "I was born in 1977": "1977",
    "my birthday is on the 4th of July": "the 4th of July"[4:],
    "My birthday: Oct 12": "Oct 12",
    "I was born on the third of May nineteen eighty-four": "the third of May nineteen eighty-four",
    "we were born March the second, 1990": "March the second, 1990",
    "Date of birth: 7 March 1969": "7 March 1969",
    "Ich bin am 12. März 1990 geboren.": "12. März 1990",
    "Mein Geburtstag ist der 5. Oktober": "5. Oktober",
    "Geburtsdatum: 5.10.1971": "5.10.1971",
    "Je suis née le 2 août 1988 à Lyon": "2 août 1988",
    "mon anniversaire est le 14 juillet": "14 juillet",
    "Nací el 9 de abril de 1979": "9 de abril de 1979",
    "mi cumpleaños es el 1 de enero": "1 de enero",
    "Sono nato il 30 giugno 1982": "30 giugno 1982",
    "Il mio compleanno è il 6 dicembre": "6 dicembre",
}


@pytest.mark.parametrize(("text", "date"), BIRTHS.items())
def test_births_of_the_users_life(text: str, date: str) -> None:
    assert found(text, "DATE_OF_BIRTH") == [date]


@pytest.mark.parametrize(
    "text",
    [
        "Mozart was born in 1756 in Salzburg",
        "Ada was born on 10 December 1815.",
        "I like it. The king was born in June 1943",
        "a birthday party in May for 20 people",
        "I was born in a small town of 3000 people",
        "The idea was born in 2019.",
    ],
)
def test_births_of_others_and_no_births(text: str) -> None:
    assert found(text, "DATE_OF_BIRTH") == []


AGES = {
    "my mother stopped working at the age of 58": "58",
    "My 71-year-old uncle fell": "71",
    "our son, aged 9, is ill": "9",
    "Ich bin 34 Jahre alt": "34",
    "j'ai 27 ans": "27",
    "tengo 45 años": "45",
    "ho 19 anni": "19",
    "meine Tochter ist 8 Jahre alt": "8",
}


@pytest.mark.parametrize(("text", "age"), AGES.items())
def test_ages(text: str, age: str) -> None:
    assert age in found(text, "AGE")


@pytest.mark.parametrize(
    "text",
    [
        "Explain it like I'm 5 years old",
        "Schubert died at the age of 31",
        "a 12 years old whisky",
        "il y a 10 ans",
        "in the age of 5 million users",
    ],
)
def test_no_ages(text: str) -> None:
    assert found(text, "AGE") == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("we meet at latitude 48.858370, longitude 2.294481", "48.858370, longitude 2.294481"),
        ('{"lat": -33.856784, "lng": 151.215297}', '-33.856784, "lng": 151.215297'),
        ("it is 48.8584° N, 2.2945° E there", "48.8584° N, 2.2945° E"),
        ("48°51'30.1\"N 2°17'40.1\"E", "48°51'30.1\"N 2°17'40.1\"E"),
        ("https://maps.example.org/@48.858370,2.294481,17z", "48.858370,2.294481"),
        ("Meine Koordinaten: 48.858370 / 2.294481", "48.858370 / 2.294481"),
    ],
)
def test_coordinates(text: str, place: str) -> None:
    assert found(text, "COORDINATES") == [place]


@pytest.mark.parametrize(
    "text",
    [
        "loss 0.123456, 0.654321",
        "lat: 51.5, lng: -0.09",
        "x = [12.34567, 89.01234]",
        "1.0000 2.0000",
    ],
)
def test_numbers_that_are_no_coordinates(text: str) -> None:
    assert found(text, "COORDINATES") == []
