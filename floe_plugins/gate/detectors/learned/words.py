"""Words that decide about findings of the learned detector."""

import re


def _words(*listed: str) -> frozenset[str]:
    return frozenset(" ".join(listed).split())


# Months and days in the languages of the training texts; what stands before a shortened "is" or
# "not"; words of programs.
NEVER = _words(
    "january february march april may june july august september october november december monday",
    "tuesday wednesday thursday friday saturday sunday januar februar märz juni juli oktober",
    "dezember montag dienstag mittwoch donnerstag freitag samstag sonntag janvier février mars",
    "avril juin juillet août septembre octobre novembre décembre lundi mardi mercredi jeudi",
    "vendredi samedi dimanche enero febrero marzo abril mayo junio julio agosto septiembre",
    "octubre noviembre diciembre lunes martes miércoles jueves viernes sábado domingo gennaio",
    "febbraio aprile maggio giugno luglio settembre ottobre dicembre lunedì martedì mercoledì",
    "giovedì venerdì sabato domenica christmas easter ramadan diwali hanukkah who what where when",
    "why how there here that it he she we they you let i isn aren wasn weren don doesn didn can",
    "couldn won wouldn shouldn hasn haven hadn ain elif max min len int str def var const args",
    "kwargs self null none true false todo fixme lorem ipsum json xml html css sql api uuid sha",
    "md5 foo bar baz",
)
"""Lower-case words that are no finding by themselves."""

NEVER_BY_NUMBER = _words(
    "jan feb mar apr mai may jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun",
)
"""Lower-case words that are no finding beside a number: a date."""

EPONYM_NOUNS = _words(
    "number numbers sequence series theorem theorems law laws lemma conjecture equation equations",
    "function functions distribution process transform transformation matrix integral inequality",
    "algorithm test tests score scores scale index criteria classification disease syndrome sign",
    "reaction effect method principle constant curve diagram tree filter chain chains model",
    "models coefficient polynomial problem paradox triangle machine network networks engine",
    "cipher code expansion decomposition factorization space spaces group groups operator kernel",
    "noise motion numeral unit units sort search stain procedure maneuver dilemma cat razor prize",
    "award method's gangrene tumor tumour sarcoma lymphoma palsy fracture nerve cell cells body",
    "bodies phenomenon hypothesis regression process divergence distance norm metric estimator",
    "correction bound",
)
"""Lower-case words after the name of the person whom something is named after."""

TITLES = _words(
    "mr mrs ms miss dr prof professor sir herr frau monsieur madame señor señora signor signora",
)
"""Lower-case words before a name of a person."""

DETERMINERS = _words(
    "der die das den dem des ein eine einen einem einer über beim vom zum zur am im le la les l",
    "un une des du au aux ce cette el los las una unos unas del al il lo gli i uno della del",
    "dei nella nel sul",
)
"""Lower-case words before a common word in the languages of the training texts besides English."""

ORDINARY = {
    "de": _words(
        "ich du er sie es wir ihr mich mir dich dir ihn ihm ihnen uns euch sich mein meine",
        "meinen meinem meiner dein deine deinen deinem deiner sein seine seinen seinem seiner",
        "ihre ihren ihrem ihrer ihres unser unsere unseren unserem unserer euer eure euren man",
        "jemand niemand wer was wen wem wann wo wie warum wieso weshalb welche welcher welches",
        "welchen ja nein nicht kein keine keinen und oder aber doch denn weil wenn dann dass ob",
        "als auch nur noch schon sehr mehr viel viele vielen alle allen alles einige mit ohne",
        "für gegen um durch von zu nach bei seit aus vor hinter unter neben zwischen trotz",
        "wegen während bis gestern heute morgen morgens abends mittags nachts jetzt immer nie",
        "oft bitte danke hallo liebe lieber deutsch englisch französisch spanisch italienisch",
        "million millionen milliarde milliarden prozent euro meter kilometer stunde stunden",
        "minute minuten tag tage woche wochen monat monate jahr jahre schreiben schreibe",
        "schreib erkläre erklären nennen nenne geben gib fügen füge finden finde stellen stelle",
        "beschreibe beschreiben verwende verwenden können muss müssen soll sollen sollte wird",
        "werden wurde würde ist sind war waren hat haben hatte blau rot grün gelb schwarz weiß",
        "rosa lila schritt frage antwort beispiel aufgabe lösung ziel",
    ),
    "fr": _words(
        "je tu il elle on nous vous ils elles me te se lui leur leurs mon ma mes ton ta tes son",
        "sa ses notre nos votre vos qui que quoi quand où comment pourquoi quel quelle quels",
        "quelles oui non ne pas et ou mais donc car si avec sans pour contre par de à en dans",
        "sur sous chez entre depuis pendant après avant hier aujourd'hui demain toujours jamais",
        "souvent bonjour merci français anglais allemand million millions milliard milliards",
        "étape question réponse exemple écris écrivez explique expliquez donne donnez décris",
        "décrivez est sont était",
    ),
    "es": _words(
        "yo tú él ella usted nosotros vosotros ellos ellas ustedes me te se nos os mi mis tu",
        "tus su sus nuestro nuestra vuestro quién qué cuándo dónde cómo por porque cuál sí no y",
        "o pero si con sin para contra de en a sobre bajo entre desde hasta ayer hoy mañana",
        "siempre nunca hola gracias español inglés millón millones paso pregunta respuesta",
        "ejemplo escribe escriba explica explique da describe es son era está",
    ),
    "it": _words(
        "io tu lui lei noi voi loro mi ti si ci vi mio mia miei mie tuo tua suo sua suoi sue",
        "nostro nostra vostro vostra chi che cosa quando dove come perché quale quali sì non e",
        "o ma però se con senza per contro di a da in su tra fra nel nello nella nell nei negli",
        "nelle al allo alla all ai agli alle dal dallo dalla dall dai dagli dalle sul sullo",
        "sulla sull sui sugli sulle del dello della dell dei degli delle ieri oggi domani",
        "sempre mai spesso tuttavia inoltre quindi infine ciao grazie italiano inglese milione",
        "milioni miliardo miliardi passo domanda risposta esempio scrivi scriva spiega spieghi",
        "descrivi storia scuola terra stati uniti è sono era parla",
    ),
}
"""Language to lower-case words that are no name with a capital, as at a sentence's beginning."""

PLACES = _words(
    "island river mountain lake city bay valley west east north south beach street sea",
)
"""Lower-case words for kinds of places, which name none."""

STREET = re.compile(
    r"(?i:stra(?:ss|ß)e|str\.|weg|gasse|allee|platz|straat|laan|gatan|vägen)\b"
    r"|\b(?i:street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|boulevard|blvd|way|square|close"
    r"|crescent|terrace|place|pl|parkway|highway|hwy|trail|circle|rue|chemin|impasse|quai|calle|plaza"
    r"|avenida|paseo|via|viale|piazza|corso|vicolo|rua|ulica|ul|box)\b"
)
"""A word that streets have in their names."""
