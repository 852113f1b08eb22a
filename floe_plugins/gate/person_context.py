"""Tells people of the user's life from people in general, by the words around their names.

A name says nothing of whose it is: a public figure's, an invented person's in a word problem, or a
neighbour's. English, German, French, Spanish and Italian.

The words must stand next to the name, within `REACH` characters, so that what a growing text says
further on changes nothing about a name that is private already.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import NamedTuple

from floe_plugins.gate.detector import Span
from floe_plugins.gate.growing import Cues, Growing, Words
from floe_plugins.gate.matching import in_lower

REACH = 96
"""Characters before and after a name that are read."""

TELLING_CHARS = 208
"""Characters before new text in which words may tell, with it, of a name before or after them."""

_MY = (
    r"(?:my|our|mein(?:e[rmns]?)?|unser(?:e[rmns]?)?|mon|ma|mes|notre|nos|mis?|nuestr[oa]s?|mi[oae]"
    r"|miei|nostr[oaie])"
)
_MY_WORDS = (
    "my our mein meine meiner meinem meinen meines unser unsere unserer unserem unseren unseres mon"
    " ma mes notre nos mi mis nuestro nuestra nuestros nuestras mio mia mie miei nostro nostra"
    " nostri nostre"
)
_RELATION = "|".join(
    (
        # English
        r"(?:great-?|grand-?|step-?|god-?|half-?)*(?:wife|husband|spouse|partner|fianc[eé]e?|"
        r"girlfriend|boyfriend|mother|father|mom|mum|mommy|dad|daddy|parents?|sons?|daughters?"
        r"|child(?:ren)?|kids?|baby|brothers?|sisters?|siblings?|twin|uncle|aunt(?:ie)?|cousins?"
        r"|niece|nephew|grandma|grandpa|grandmother|grandfather|ma|pa)(?:-in-law)?",
        r"ex(?:-(?:wife|husband|boyfriend|girlfriend|partner))?|(?:best\ )?friends?|buddy|(?:room"
        r"|flat"
        r"|house|class|team|work)mates?|colleagues?|co-?workers?|boss|manager|supervisor|employer"
        r"|employees?|assistant|secretary|intern|neighbou?rs?|land(?:lord|lady)|tenants?|doctor|gp"
        r"|dentist|therapist|psychiatrist|counsell?or|nurse|lawyer|attorney|accountant|teachers?"
        r"|professor|advisor|tutor|coach|students?|pupils?|clients?|customers?|patients?|nanny"
        r"|babysitter|pastor|priest|crush|date",
        # German
        r"(?:(?:ur)?(?:gro(?:ß|ss)|stief|schwieger|paten))*(?:ehe)?(?:frau|mann|mutter|vater|mama"
        r"|papa"
        r"|eltern|sohn|söhne|tochter|töchter|kind(?:er)?|bruder|brüder|schwester|oma|opa|onkel"
        r"|tante)",
        r"geschwister|neffen?|nichte|enkel(?:in|kind)?|cousine?|schwager|schwägerin|verlobte[rn]?"
        r"|partner(?:in)?|(?:lebens)?gefährt(?:e|in)|freund(?:e|in)?|kolleg(?:en?|in)|chef(?:in)?"
        r"|vorgesetzte[rn]?|mitarbeiter(?:in)?|nachbar(?:n|in)?|vermieter(?:in)?|mieter(?:in)?"
        r"|mitbewohner(?:in)?|(?:zahn|haus)?(?:arzt|ärztin)|therapeut(?:in)?|anw[aä]lt(?:in)?"
        r"|lehrer(?:in)?|schüler(?:in)?|kund(?:en?|in)|patient(?:en|in)?|mandant(?:en|in)?",
        # French
        r"femme|mari|épou(?:x|se)|compagn(?:on|e)|conjointe?|fiancée?|copine?|(?:grand-|belle-"
        r"|beau-)?"
        r"(?:mère|père|fille|fils|frère|s(?:œ|oe)ur)s?|maman|enfants?|oncle|tante|cousine?s?|nièce"
        r"|neveu|petite?-fil(?:le|s)|ami(?:e|es|s)?|collègues?|patron(?:ne)?|chef(?:fe)?|voisine?s?"
        r"|propriétaire|locataire|colocataire|médecin|docteur|dentiste|avocate?|professeure?|élève"
        r"|cliente?s?|patiente?s?",
        # Spanish
        r"(?:ex)?(?:esposa?|marido|mujer|novi[oa]|pareja|prometid[oa])|madre|padres?|mam[aá]"
        r"|pap[aá]"
        r"|hij[oa]s?|hermanas?|hermanos?|abuel[oa]s?|t[ií][oa]s?|sobrin[oa]s?|niet[oa]s?"
        r"|suegr[oa]|cuñad[oa]|amig[oa]s?|compañer[oa]s?|colegas?|jef[ea]|vecin[oa]s?|caser[oa]"
        r"|inquilin[oa]|médic[oa]|doctora?|abogad[oa]|profesora?|maestr[oa]|alumn[oa]|clientes?"
        r"|pacientes?",
        # Italian
        r"(?:ex\ )?(?:moglie|marito|compagn[oa]|fidanzat[oa]|ragazz[oa])|mamma|babbo|figli[oa]?"
        r"|fratell[oi]|sorell[ae]|nonn[oaie]|zi[oaie]|cugin[oaie]|nipot[ei]|suocer[oa]|cognat[oa]"
        r"|amic[oahie]{1,2}|collegh?[aei]|capo|vicin[oaie]|padron[ea]\ di\ casa|inquilin[oaie]"
        r"|coinquilin[oaie]|medico|dottor(?:e|essa)|dentista|avvocat[oa]|professor(?:e|essa)"
        r"|alunn[oa]|client[ei]|pazient[ei]",
    )
)
_TITLE = (
    r"(?:mr|mrs|ms|miss|mx|dr|prof|professor|sir|madam|hr|herrn?|frau|fr|fräulein|mme|mlle|monsieur"
    r"|madame|mademoiselle|m|sr|sra|srta|señora?|señorita|don|doña|sig|sig\.ra|signora?|dott"
    r"|dott\.ssa"
    r"|dottor|dottoressa|ing|avv|dra)\.?(?:\ (?:dr|prof|med)\.)*[ ]"
)
_CALLED = (
    r"(?:(?:['’]s)?\ (?:name\ )?(?:is|was|called|named|who\ is|heißt|heisst|hei(?:ß|ss)en|namens"
    r"|ist|s['’]appelle|nommée?|est|se\ llama|llamad[oa]|es|si\ chiama|chiamat[oa]|di\ nome|è))?"
)
# Between such words and the name.
_TO_NAME = rf"[ \t]*[:,(–-]?\s*[\"“„«'*]{{0,3}}(?:{_TITLE})*"

_OF_MINE = rf"(?:\b{_MY}\ (?:[\w'’-]+\ ){{0,2}}(?:{_RELATION})|\bmis?\ prim[oa]s?)\b"

# At the beginning of a line, after a bullet, a quotation mark or a comment's sign.
_LINE = r"(?:^|(?<=\n))[ \t>*#|\"“„«-]*"


class _Cue(NamedTuple):
    """Words beside a name, in three parts that follow one another.

    `core` is what a text with the cue must hold, and `first` the words that `core` may begin with,
    in lower case. A cue without `first` begins in a line of its own.
    """

    lead: str
    core: str
    tail: str
    first: str = ""


# Words after which a name is a person's, even if it was taken for a place or a company.
_OF_PEOPLE: tuple[_Cue, ...] = (
    # my wife Anna; mein Kollege, Herr Meyer; my neighbour's name is Tom
    _Cue("", _OF_MINE, rf"{_CALLED}{_TO_NAME}", _MY_WORDS),
    # the patient, John Smith; Patientin Meyer
    _Cue(
        r"\b(?:the|an?|this|der|die|le|la|el|il)\ ",
        r"\b(?:patient(?:in|e)?|paciente|paziente)",
        rf",?{_CALLED}\ (?:{_TITLE})*",
        "patient patientin patiente paciente paziente",
    ),
    _Cue(
        "",
        r"\b(?:patient(?:in|e)?|pt|paciente|paziente)",
        rf"\.?[ \t]*:?[ \t]+(?:{_TITLE})*",
        "patient patientin patiente pt paciente paziente",
    ),
    # My name is Anna; ich heiße Anna
    _Cue(
        "",
        r"\b(?:my\ (?:\w+\ )?name(?:['’]s|\ is|\ was)|i(?:\ am|['’]m)|call\ me|i\ go\ by"
        r"|ich\ hei(?:ß|ss)e|ich\ bin|mein\ (?:\w+\ )?name\ (?:ist|lautet)|hier\ (?:ist|spricht)"
        r"|je\ m['’]appelle|je\ suis|mon\ nom(?:\ \w+)?\ est|moi\ c['’]est|me\ llamo|soy"
        r"|mi\ nombre(?:\ \w+)?\ es|mi\ chiamo|io\ sono|il\ mio\ nome(?:\ \w+)?\ è)\b",
        _TO_NAME,
        "my i call ich mein hier je mon moi me soy mi io il",
    ),
    # This is Anna, on the telephone
    _Cue(r"(?:^|[.!?\n]\s*|\b(?:hi|hello),?\ )", r"\bthis\ is\ ", rf"(?:{_TITLE})*", "this"),
    _Cue(r"(?:^|[.!?,\n]\s*)", r"\bsono\ ", rf"(?:{_TITLE})*", "sono"),
    # Best regards, Anna
    _Cue(
        "",
        r"\b(?:(?:best|kind|kindest|warm|warmest)\ (?:regards|wishes)|sincerely(?:\ yours)?"
        r"|yours\ (?:truly|sincerely|faithfully)|respectfully"
        r"|mit\ (?:freundlichen|besten|lieben|herzlichen)\ grü(?:ß|ss)en"
        r"|(?:freundliche|viele|liebe|beste|herzliche)\ grü(?:ß|ss)e|mfg|(?:bien\ )?cordialement"
        r"|bien\ à\ vous|amicalement|(?:un\ )?cordial(?:es)?\ saludos?|saludos(?:\ cordiales)?"
        r"|atentamente|(?:cordiali|distinti)\ saluti)",
        rf"[,.!]?\s+(?:-+\s*)?(?:{_TITLE})*",
        "best kind kindest warm warmest sincerely yours respectfully mit freundliche viele liebe"
        " beste herzliche mfg bien cordialement amicalement un cordial cordiales saludos"
        " atentamente cordiali distinti",
    ),
    # Cheers, and the name on a line of its own
    _Cue(
        "",
        r"\b(?:regards|cheers|love|thanks|thank\ you|many\ thanks|gru(?:ß|ss)|lg|vg|danke|merci"
        r"|bises|gracias|un\ abrazo|grazie|saluti|un\ abbraccio)[,.!]?[ \t]*\n",
        rf"\s*(?:-+\s*)?(?:{_TITLE})*",
        "regards cheers love thanks thank many gruß gruss lg vg danke merci bises gracias un grazie"
        " saluti",
    ),
)
# Words after which a person's name is one of the user's life. "To:" may stand before a city.
_OF_LETTERS: tuple[_Cue, ...] = (
    # Dear Mr Smith; Sehr geehrte Frau Meyer
    _Cue(
        rf"{_LINE}(?:my\ )?",
        r"\b(?:dear(?:est)?|sehr\ geehrte[rs]?|geehrte[rs]?|liebe[rs]?|ch(?:er|ère)s?"
        r"|estimad[oa]s?|querid[oa]s?|gentile|gentilissim[oa]|egregi[oa]|car[oa])\ ",
        rf"(?:{_TITLE})*",
    ),
    # Name: Anna
    _Cue(
        _LINE,
        r"\b(?:(?:(?:full|first|last|middle|given|family|maiden|legal|user|patient(?:['’]s)?"
        r"|client"
        r"|customer|employee|contact|applicant|student|tenant|insured|emergency)[ -]?)*(?:sur)?name"
        r"|patient|client|customer|employee|applicant|insured|tenant|contact(?:\ person)?|attn"
        r"|attention"
        r"|from|to|cc|bcc|sender|recipient|signed|signature|bill\ to|ship\ to|next\ of\ kin"
        r"|(?:vor|nach|familien|geburts)name|kund(?:e|in)|patientin|ansprechpartner(?:in)?|absender"
        r"|empfänger(?:in)?|von|an|mitarbeiter(?:in)?|versicherte[r]?|unterschrift"
        r"|(?:nom|prénom)(?:\ (?:et\ prénom|complet|de\ famille))?|destinataire|expéditeur|à|de"
        r"|nombre(?:\ (?:completo|y\ apellidos))?|apellidos?|cliente|destinatario|remitente|firma"
        r"|nome(?:\ (?:completo|e\ cognome))?|cognome|mittente|intestatario)\*{0,2}[ \t]*:",
        rf"[ \t]*\*{{0,2}}[ \t]*[\"“'<]?(?:{_TITLE})*",
    ),
)
# Greetings that people also give to programs: a letter goes on in the next line.
_HELLO_WORDS = (
    r"(?:hi|hello|hey|hallo|guten\ tag|moin|bonjour|salut|coucou|hola|buenos\ días|ciao"
    r"|buongiorno|good\ (?:morning|afternoon|evening))\ ".replace(r"\ ", "[ ]")
)
_HELLO = re.compile(
    rf"{_LINE}{_HELLO_WORDS}(?:{_TITLE})*\Z".replace(r"\ ", r"[ ]"),
    re.IGNORECASE,
)
_GREETING = re.compile(rf"\b{_HELLO_WORDS}")
_ENDS_LINE = re.compile(r"[ \t]*[,!:.]*[ \t]*\n")


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(r"\ ", r"[ \n]"), re.IGNORECASE)


_WORD = re.compile(r"\w+")


# Where a core begins, or the line with it, and the number of its cue.
_Place = tuple[int, int]


class _Cues:
    """Cues, and cheap tests that tell where they can be."""

    def __init__(self, cues: Sequence[_Cue]) -> None:
        self._patterns = tuple(_compiled(cue.lead + cue.core + cue.tail) for cue in cues)
        # Whether a place is where the whole cue begins.
        self._anchored = tuple(not cue.first or not cue.lead for cue in cues)
        # In lower case: patterns without regard to case take several times as long.
        self._cores: dict[str, list[tuple[int, re.Pattern[str]]]] = {}
        self._lines: list[tuple[int, re.Pattern[str]]] = []
        for number, cue in enumerate(cues):
            pattern = _in_lower(cue.core if cue.first else cue.lead + cue.core)
            for word in cue.first.split():
                self._cores.setdefault(word, []).append((number, pattern))
            if not cue.first:
                self._lines.append((number, pattern))
        #: The first words of those cues that need no line of their own.
        self.words = frozenset(self._cores)

    def places(self, text: str) -> list[_Place] | None:
        """Return where cores of the cues are, in order; None stands for anywhere."""
        lower = in_lower(text)
        if lower is None:
            return None
        found = []
        cores = self._cores
        if cores and not cores.keys().isdisjoint(_WORD.findall(lower)):
            for word in _WORD.finditer(lower):
                for cue, core in cores.get(word[0], ()):
                    if core.match(lower, word.start()):
                        found.append((word.start(), cue))
        start = 0 if self._lines else -1
        while start >= 0:
            for cue, core in self._lines:
                if core.match(lower, start):
                    found.append((start, cue))
            start = lower.find("\n", start) + 1 or -1
        return sorted(found)

    def followed(self, text: str, span: Span, places: list[_Place] | None) -> bool:
        """Return whether a name follows one of the cues, or begins with what belongs to one.

        Parameters
        ----------
        places : list of tuple of int, or None
            What `places` returns for the text.
        """
        begin = max(0, span.start - REACH)
        if places is None:
            return any(self._leads(cue, text, span) for cue in range(len(self._patterns)))
        for number in range(bisect_left(places, (begin, 0)), len(places)):
            start, cue = places[number]
            if start >= span.end:
                break
            if not self._anchored[cue]:
                if self._leads(cue, text, span):
                    return True
            elif start <= span.start:
                match = self._patterns[cue].match(text, start, span.end)
                if match is not None and _reaches(match, span):
                    return True
        return False

    def _leads(self, cue: int, text: str, span: Span) -> bool:
        """Return whether a name follows a cue, wherever that begins."""
        place = max(0, span.start - REACH)
        while match := self._patterns[cue].search(text, place, span.end):
            if match.start() > span.start:
                return False
            if _reaches(match, span):
                return True
            place = match.start() + 1
        return False


def _reaches(match: re.Match[str], span: Span) -> bool:
    # A title or a salutation may belong to what was found, but is not all of it.
    return span.start <= match.end() < span.end


def _in_lower(pattern: str) -> re.Pattern[str]:
    return re.compile(f"(?:{pattern})".replace(r"\ ", r"[ \n]"))


_PEOPLE = _Cues(_OF_PEOPLE)
_LETTERS = _Cues(_OF_LETTERS)
# Anna, my wife; Anna is my sister
_AFTER = _compiled(
    rf"(?:['’]s|\ (?:is|was|ist|war|est|es|è|era))?[ \t]?[,(–-]?\s*(?:who\ (?:is|was)\ )?{_OF_MINE}"
)
_BIRTH = _compiled(
    r"(?:\b(?:my|your|his|her|mein|dein|ihr|mon|votre|mi|su|il\ mio)\ (?:birth-?day|dob|geburtstag"
    r"|anniversaire|cumpleaños|compleanno)|\b(?:date|place)\ of\ birth|\bdob\b|\bd\.o\.b"
    r"|\bbirth\ ?date"
    r"|\bgeburtsdatum|\bgeb\.|\bdate\ de\ naissance|\bfecha\ de\ nacimiento|\bdata\ di\ nascita"
    rf"|\b(?:i|we|{_OF_MINE})\ (?:was|were)\ born|\bich\ (?:bin|wurde)\b[^.\n]{{0,40}}\bgeboren"
    r"|\bje\ suis\ née?|\bnací|\bsono\ nat[oa])"
)


def persons_of_letters(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the names that letters and forms have, as people of the user's life.

    Words beside them are read by `persons_of_life`.

    Parameters
    ----------
    spans : collection of Span
        Names of people in `text`.
    """
    places = _LETTERS.places(text) if spans else None
    return {span for span in spans if _LETTERS.followed(text, span, places) or _greeted(text, span)}


def persons_of_life(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the names of people of the user's life, and of the user.

    Parameters
    ----------
    spans : collection of Span
        Names of any kind in `text`: a detector may take a person's for a place's or a company's.
    """
    places = _PEOPLE.places(text) if spans else None
    return {
        span
        for span in spans
        if _PEOPLE.followed(text, span, places) or _AFTER.match(text, span.end, span.end + REACH)
    }


# First words of what tells of a life, except those of `_PEOPLE`, in lower case; fields of forms
# have a colon. And letters that `in_lower` does not take.
_FIRST_WORDS = frozenset(
    "hi hello hey hallo guten moin bonjour salut coucou hola buenos ciao buongiorno good"  # noqa: SIM905
    " dear dearest sehr geehrte geehrter geehrtes liebe lieber liebes cher chers chère chères"
    " estimado estimada estimados estimadas querido querida queridos queridas gentile gentilissimo"
    " gentilissima egregio egregia caro cara".split()
)
_OTHER_LETTERS = re.compile("[ſıﬅﬆ\u0307]")


def _may_begin(lower: str) -> bool:
    words = _WORD.findall(lower)
    return (
        ":" in lower
        or not (_FIRST_WORDS.isdisjoint(words) and _PEOPLE.words.isdisjoint(words))
        or (not lower.isascii() and _OTHER_LETTERS.search(lower) is not None)
    )


def may_tell_of_life(grown: Growing) -> bool:
    """Return whether new words may make names beside them those of people of the user's life."""
    # Words that tell of a name are within its reach, so that no longer part must be read at once.
    return _TELLING.near(grown, finds=_BEGINNING.near(grown))


def _tells(text: str) -> bool:
    lower = in_lower(text)
    return (
        lower is None
        or _GREETING.search(lower) is not None
        or bool(_PEOPLE.places(text) or _LETTERS.places(text))
    )


_BEGINNING = Words(_may_begin, within=REACH)
_TELLING = Cues(_tells, longest=REACH, within=TELLING_CHARS, lower=False)


def births_of_life(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the dates on which the user, or somebody of the user's life, was born.

    Parameters
    ----------
    spans : collection of Span
        Dates in `text`.
    """
    return {span for span in spans if _BIRTH.search(text, max(0, span.start - REACH), span.start)}


def _greeted(text: str, span: Span) -> bool:
    return _ENDS_LINE.match(text, span.end) is not None and bool(
        _HELLO.search(text[max(0, span.start - REACH) : span.start])
    )
