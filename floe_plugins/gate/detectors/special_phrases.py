"""Words of statements about a person in German, French, Spanish and Italian.

In these languages a verb often says who, so a word may have the signs of several parts.
"""

from typing import Final

_PARTS: Final[dict[str, str]] = {
    # Who; a verb with its person.
    "I": "ich|wir|je|j|nous|yo|io|nosotros|noi",
    "Y": "mein|meine|meiner|meinem|meinen|unser|unsere|mon|ma|mes|notre|mi|mis|mío|mia|mio|miei"
    "|nuestro",
    "E": "er|elle|il|ella|él|lui|lei",
    "M": "mich|mir|moi",
    "T": "patientin|patienten|paciente|paziente|la patiente|le patient",
    "R": "mutter|vater|schwester|bruder|sohn|tochter|kind|mann|frau|freund|freundin|oma|opa|onkel"
    "|tante|partnerin|chef|chefin|kollege|kollegin|mère|père|soeur|sœur|frère|fils|fille|mari"
    "|femme|enfant|copain|copine|grand mère|madre|padre|hermana|hermano|hijo|hija|marido|esposa"
    "|mujer|novio|novia|abuela|abuelo|sorella|fratello|figlio|figlia|marito|moglie|nonna|nonno"
    "|ragazzo|ragazza|amico|amica",
    "B": "ist|war|wurde|wurden|fühle|fühlt|suis|est|était|étais|été|es|está|era|fue|è|stato|stata",
    "H": "hat|hatte|leidet|litt|ai|'ai|a|avait|avais|souffre|souffrons|tiene|tuvo|sufre|ha|'ho"
    "|soffre|aveva",
    "IH": "habe|leide|tengo|tuve|padezco|sufro|ho|soffro|avevo",
    "IB": "bin|mi sento|me siento|je me sens|ich fühle mich|soy|estoy|fui|estuve",
    "N": "nicht|kein|keine|keinen|pas|jamais|nunca|non|nie",
    "K": "nehme|nimmt|nahm|prends|prend|tomo|toma|prendo|prende|konsumiere|consumo|consomme",
    "c": "krebs|brustkrebs|depressionen|depression|angststörung|asthma|epilepsie|migräne|rheuma"
    "|demenz|alzheimer|schizophrenie|magersucht|bulimie|bluthochdruck|herzinfarkt|schlaganfall"
    "|kopfschmerzen|bauchschmerzen|rückenschmerzen|brustschmerzen|fieber|husten|panikattacken"
    "|burnout|fehlgeburt|selbstmordgedanken|suizidgedanken|schlafstörungen|allergie|hepatitis"
    "|multiple sklerose|adhs|cancer|dépression|diabète|asthme|épilepsie|migraines|migraine"
    "|sclérose en plaques|schizophrénie|anorexie|boulimie|hypertension|fièvre|toux|maux de tête"
    "|mal de tête|mal au dos|mal au ventre|crises d'angoisse|fausse couche|avc|sida|vih|insomnies"
    "|pensées suicidaires|une tumeur|tumeur|cáncer|depresión|diabetes|asma|epilepsia|migrañas"
    "|migraña|esquizofrenia|ansiedad|hipertensión|fiebre|tos|dolor de cabeza|dolor de espalda"
    "|dolor en el pecho|un tumor|insomnio|sida|pensamientos suicidas|ataques de pánico|aborto"
    "|cancro|tumore|depressione|diabete|epilessia|emicrania|ansia|ipertensione|febbre|tosse"
    "|mal di testa|mal di schiena|mal di stomaco|attacchi di panico|insonnia|anoressia"
    "|pensieri suicidi|sclerosi multipla|un tumore|infarto|ictus|hiv|autismo|autisme|autismus",
    "s": "schwanger|depressiv|suizidgefährdet|alkoholiker|alkoholikerin|süchtig|behindert"
    "|querschnittsgelähmt|hiv positiv|drogenabhängig|enceinte|dépressif|dépressive|diabétique"
    "|alcoolique|handicapé|handicapée|toxicomane|séropositif|séropositive|embarazada|deprimida"
    "|deprimido|diabético|diabética|alcohólico|alcohólica|discapacitado|seropositivo|adicto|adicta"
    "|incinta|depresso|depressa|diabetico|diabetica|alcolista|disabile|sieropositivo"
    "|tossicodipendente|krank|autiste|autista",
    "m": "therapeut|therapeutin|psychiater|psychiaterin|psychologin|chemotherapie|psychiatre"
    "|thérapeute|chimiothérapie|psychologue|psiquiatra|psicóloga|psicólogo|quimioterapia"
    "|psichiatra|psicologo|psicologa|chemioterapia|blutdruck|tension artérielle|presión arterial"
    "|pressione sanguigna|diagnose",
    "d": "antidepressiva|antidepresivos|antidépresseurs|antidepressivi|insuline|insulina"
    "|metformina|blutverdünner|schlaftabletten|somnifères",
    "u": "kokain|drogen|gras|cocaïne|drogue|héroïne|cannabis|cocaína|drogas|marihuana|cocaina"
    "|eroina|droghe",
    "z": "ritzt sich|se coupe les veines|se corta los brazos|si taglia|umbringen|das leben nehmen"
    "|nicht mehr leben|will sterben|sterben will|me suicider|me tuer|mettre fin à mes jours"
    "|plus envie de vivre|envie de mourir|suicidarme|matarme|quitarme la vida|quiero morir"
    "|quiero morirme|no quiero vivir|uccidermi|suicidarmi|togliermi la vita|voglio morire"
    "|non voglio più vivere|ritze mich|selbst verletzen|ich mich ritze",
    "v": "schlägt|schlug|geschlagen|vergewaltigt|missbraucht|bedroht|misshandelt|frappe|frappée"
    "|frappé|battue|violée|violé|violada|violado|agredida|golpeada|picchia|picchiata|violentata"
    "|stuprata|abusata|abusé|abusée|maltratada|menacée",
    "f": "muslim|muslima|jude|jüdin|katholisch|evangelisch|christ|christin|atheist|jüdisch"
    "|buddhist|hindu|musulman|musulmane|juif|juive|catholique|protestant|protestante|athée"
    "|chrétien|chrétienne|bouddhiste|musulmán|musulmana|judío|judía|católico|católica|ateo|atea"
    "|cristiano|cristiana|evangélico|musulmano|ebreo|ebrea|cattolico|cattolica|buddista",
    "g": "schwul|lesbisch|bisexuell|transgender|homosexuell|homosexuel|homosexuelle|lesbienne"
    "|bisexuel|bisexuelle|lesbiana|bisexual|homosexual|gay|lesbica|bisessuale|omosessuale|trans",
    "P": "gewählt|wähle|voté pour|vote pour|voté por|voté a|voto a|votado a|ho votato|votato per"
    "|mitglied der|mitglied bei|membre du|militante de|iscritto al",
    "j": "vorbestraft|verhaftet|verurteilt|im gefängnis|festgenommen|arrêté|arrêtée|condamné"
    "|condamnée|en prison|detenido|detenida|condenado|condenada|en la cárcel|arrestato|arrestata"
    "|condannato|condannata|in prigione|in carcere",
    "o": "ohne papiere|illegal im land|flüchtling|asylbewerber|sans papiers|réfugié|réfugiée"
    "|indocumentado|indocumentada|refugiado|refugiada|clandestino|rifugiato|rifugiata"
    "|senza documenti",
    "a": "jahre alt|ans|años|anni",
}

# What is said without a person of its own, "me pega"; and who speaks in a conversation.
_WHOLE: Final[dict[str, str]] = {
    "me pega": "EvM",
    # "Sono" is "they are" as well, so what follows decides.
    **{
        f"sono {word}": "IBs"
        for word in (
            *("incinta", "depresso", "depressa", "diabetico", "diabetica", "alcolista", "disabile"),
            *("sieropositivo", "sieropositiva", "tossicodipendente", "autistico", "autistica"),
        )
    },
    **{
        f"sono {word}": "IBf"
        for word in ("musulmano", "musulmana", "cattolico", "cattolica", "ebreo", "ebrea")
    },
    **{f"sono {word}": "IBg" for word in ("gay", "lesbica", "bisessuale", "omosessuale", "trans")},
    **{f"sono {word}": "IBj" for word in ("in prigione", "stato arrestato", "stata arrestata")},
    "sono stata violentata": "IBv",
    "me golpea": "EvM",
    "mi picchia": "EvM",
    "me frappe": "EvM",
    "mich schlägt": "EvM",
    "schlägt mich": "EvM",
    "bedroht mich": "EvM",
    "doctor:": "T,",
    "patient:": "T,",
    "guest_family:": "T,",
    "therapist:": "T,",
    "counselor:": "T,",
}

ITALIAN: Final = frozenset(
    (
        "il",
        "che",
        "di",
        "della",
        "dei",
        "gli",
        "del",
        "nel",
        "quali",
        "sono",
        "dell",
        "delle",
        "come",
    )
)
"""Words of texts in which "i" is an article."""

OTHER_LANGUAGES: Final[tuple[tuple[str, str], ...]] = (
    *_WHOLE.items(),
    *((term, signs) for signs, terms in _PARTS.items() for term in terms.split("|")),
)
"""Words or phrases, and their signs: see `special_terms.PARTS`."""
