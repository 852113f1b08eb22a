"""Tells people of the user's life from people in general, by the words around their names.

A name says nothing of whose it is: a public figure's, an invented person's in a word problem, or a
neighbour's. English, German, French, Spanish and Italian.

The words must stand next to the name, within `REACH` characters, so that what a growing text says
further on changes nothing about a name that is private already.
"""

import re
from collections.abc import Collection, Sequence

from floe_plugins.gate.detector import Span

REACH = 96
"""Characters before and after a name that are read."""

_MY = (
    r"(?:my|our|mein(?:e[rmns]?)?|unser(?:e[rmns]?)?|mon|ma|mes|notre|nos|mis?|nuestr[oa]s?|mi[oae]"
    r"|miei|nostr[oaie])"
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

# Words after which a name is a person's, even if it was taken for a place or a company.
_OF_PEOPLE: tuple[str, ...] = (
    # my wife Anna; mein Kollege, Herr Meyer; my neighbour's name is Tom
    rf"{_OF_MINE}{_CALLED}{_TO_NAME}",
    # the patient, John Smith; Patientin Meyer
    rf"\b(?:the|an?|this|der|die|le|la|el|il)\ (?:patient(?:in|e)?|paciente|paziente),?{_CALLED}"
    rf"\ (?:{_TITLE})*",
    rf"\b(?:patient(?:in|e)?|pt|paciente|paziente)\.?[ \t]*:?[ \t]+(?:{_TITLE})*",
    # My name is Anna; ich heiße Anna
    rf"\b(?:my\ (?:\w+\ )?name(?:['’]s|\ is|\ was)|i(?:\ am|['’]m)|call\ me|i\ go\ by"
    rf"|ich\ hei(?:ß|ss)e|ich\ bin|mein\ (?:\w+\ )?name\ (?:ist|lautet)|hier\ (?:ist|spricht)"
    rf"|je\ m['’]appelle|je\ suis|mon\ nom(?:\ \w+)?\ est|moi\ c['’]est|me\ llamo|soy"
    rf"|mi\ nombre(?:\ \w+)?\ es|mi\ chiamo|io\ sono|il\ mio\ nome(?:\ \w+)?\ è)\b{_TO_NAME}",
    # This is Anna, on the telephone
    rf"(?:^|[.!?\n]\s*|\b(?:hi|hello),?\ )this\ is\ (?:{_TITLE})*",
    rf"(?:^|[.!?,\n]\s*)sono\ (?:{_TITLE})*",
    # Best regards, Anna
    r"\b(?:(?:best|kind|kindest|warm|warmest)\ (?:regards|wishes)|sincerely(?:\ yours)?"
    r"|yours\ (?:truly"
    r"|sincerely|faithfully)|respectfully|mit\ (?:freundlichen|besten|lieben|herzlichen)\ grü(?:ß"
    r"|ss)en"
    r"|(?:freundliche|viele|liebe|beste|herzliche)\ grü(?:ß|ss)e|mfg|(?:bien\ )?cordialement"
    r"|bien\ à\ vous|amicalement|(?:un\ )?cordial(?:es)?\ saludos?|saludos(?:\ cordiales)?"
    r"|atentamente|(?:cordiali|distinti)\ saluti)"
    rf"[,.!]?\s+(?:-+\s*)?(?:{_TITLE})*",
    # Cheers, and the name on a line of its own
    r"\b(?:regards|cheers|love|thanks|thank\ you|many\ thanks|gru(?:ß|ss)|lg|vg|danke|merci|bises"
    r"|gracias"
    rf"|un\ abrazo|grazie|saluti|un\ abbraccio)[,.!]?[ \t]*\n\s*(?:-+\s*)?(?:{_TITLE})*",
)
# Words after which a person's name is one of the user's life. "To:" may stand before a city.
_OF_LETTERS: tuple[str, ...] = (
    # Dear Mr Smith; Sehr geehrte Frau Meyer
    rf"{_LINE}(?:my\ )?(?:dear(?:est)?|sehr\ geehrte[rs]?|geehrte[rs]?|liebe[rs]?|ch(?:er|ère)s?"
    rf"|estimad[oa]s?|querid[oa]s?|gentile|gentilissim[oa]|egregi[oa]|car[oa])\ (?:{_TITLE})*",
    # Name: Anna
    rf"{_LINE}(?:(?:(?:full|first|last|middle|given|family|maiden|legal|user|patient(?:['’]s)?"
    rf"|client"
    r"|customer|employee|contact|applicant|student|tenant|insured|emergency)[ -]?)*(?:sur)?name"
    r"|patient|client|customer|employee|applicant|insured|tenant|contact(?:\ person)?|attn"
    r"|attention"
    r"|from|to|cc|bcc|sender|recipient|signed|signature|bill\ to|ship\ to|next\ of\ kin"
    r"|(?:vor|nach|familien|geburts)name|kund(?:e|in)|patientin|ansprechpartner(?:in)?|absender"
    r"|empfänger(?:in)?|von|an|mitarbeiter(?:in)?|versicherte[r]?|unterschrift"
    r"|(?:nom|prénom)(?:\ (?:et\ prénom|complet|de\ famille))?|destinataire|expéditeur|à|de"
    r"|nombre(?:\ (?:completo|y\ apellidos))?|apellidos?|cliente|destinatario|remitente|firma"
    rf"|nome(?:\ (?:completo|e\ cognome))?|cognome|mittente"
    rf"|intestatario)\*{{0,2}}[ \t]*:[ \t]*\*{{0,2}}"
    rf"[ \t]*[\"“'<]?(?:{_TITLE})*",
)
# Greetings that people also give to programs: a letter goes on in the next line.
_HELLO = re.compile(
    rf"{_LINE}(?:hi|hello|hey|hallo|guten\ tag|moin|bonjour|salut|coucou|hola|buenos\ días|ciao"
    rf"|buongiorno|good\ (?:morning|afternoon|evening))\ (?:{_TITLE})*\Z".replace(r"\ ", r"[ ]"),
    re.IGNORECASE,
)
_ENDS_LINE = re.compile(r"[ \t]*[,!:.]*[ \t]*\n")


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(r"\ ", r"[ \n]"), re.IGNORECASE)


_PEOPLE = tuple(map(_compiled, _OF_PEOPLE))
_LETTERS = tuple(map(_compiled, _OF_LETTERS))
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


def persons_of_life(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the names of people of the user's life, and of the user.

    Parameters
    ----------
    spans : collection of Span
        Names of people in `text`.
    """
    letters = {span for span in spans if _follows(_LETTERS, text, span) or _greeted(text, span)}
    return letters | names_taken_wrong(text, spans)


def names_taken_wrong(text: str, spans: Collection[Span]) -> set[Span]:
    """Return those names of any kind, also of places and companies, that are such people's.

    Parameters
    ----------
    spans : collection of Span
        Names in `text`.
    """
    return {
        span
        for span in spans
        if _follows(_PEOPLE, text, span) or _AFTER.match(text, span.end, span.end + REACH)
    }


def births_of_life(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the dates on which the user, or somebody of the user's life, was born.

    Parameters
    ----------
    spans : collection of Span
        Dates in `text`.
    """
    return {span for span in spans if _BIRTH.search(text, max(0, span.start - REACH), span.start)}


def _greeted(text: str, span: Span) -> bool:
    before = text[max(0, span.start - REACH) : span.start]
    return bool(_HELLO.search(before) and _ENDS_LINE.match(text, span.end))


def _follows(cues: Sequence[re.Pattern[str]], text: str, span: Span) -> bool:
    """Return whether a name follows one of the cues, or begins with what belongs to one."""
    begin = max(0, span.start - REACH)
    for cue in cues:
        place = begin
        while match := cue.search(text, place, span.end):
            if match.start() > span.start:
                break
            # A title or a salutation may belong to what was found, but is not all of it.
            if span.start <= match.end() < span.end:
                return True
            place = match.start() + 1
    return False
