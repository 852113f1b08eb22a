"""Statements about a person's health, faith, politics, sexuality, origin or crimes.

A word alone is not private: "what helps against asthma?" is a question, "my son has asthma" a
statement about a person. So each pattern joins a person and a statement about them.
"""

import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span

ILLNESS = (
    "diabetes|diabetic|asthma|cancer|tumor|tumour|tumors|tumours|leukemia|leukaemia|lymphoma|melanoma"
    "|carcinoma|epilepsy|seizures|migraine|migraines|arthritis|hypertension|high blood pressure"
    "|heart attack|heart failure|heart disease|heart condition|heart surgery|stroke|pneumonia"
    "|tuberculosis|hepatitis|hiv|aids|std|sti|herpes|chlamydia|syphilis|gonorrhea|gonorrhoea|anemia"
    "|anaemia|lupus|psoriasis|eczema|multiple sclerosis|parkinson|parkinson's|parkinsons|alzheimer"
    "|alzheimer's|alzheimers|dementia|schizophrenia|psychosis|bipolar|autism|autistic|adhd|add|ocd|ptsd"
    "|depression|anxiety|panic attacks|anorexia|bulimia|eating disorder|obesity|insomnia"
    "|kidney disease|kidney failure|kidney stones|dialysis|ulcer|ulcers|celiac|coeliac|crohn's"
    "|crohns|ibs|colitis|endometriosis|pcos|infertility|miscarriage|abortion|chemo|chemotherapy"
    "|radiation therapy|transplant|covid|covid-19|malaria|sickle cell|cystic fibrosis|down syndrome"
    "|down's syndrome|cerebral palsy|glaucoma|osteoporosis|fibromyalgia|sleep apnea|sleep apnoea"
    "|thyroid|copd|angina|addiction|alcoholism|alcoholic|overdose|suicidal|erectile dysfunction"
    "|personality disorder|learning disability|dyslexia|concussion"
)
REMEDY = (
    "insulin|metformin|antidepressant|antidepressants|ssri|ssris|lithium|prozac|zoloft|lexapro|xanax"
    "|valium|ritalin|adderall|methadone|suboxone|oxycodone|oxycontin|morphine|opioids|warfarin|statins"
    "|viagra|antiretrovirals|antipsychotics|sertraline|fluoxetine|prednisone|lisinopril|gabapentin"
    "|tramadol|birth control|the pill|hormones|testosterone|estrogen|estradiol|chemo|chemotherapy"
)
STATE = (
    "pregnant|disabled|autistic|diabetic|epileptic|bipolar|schizophrenic|suicidal|hiv positive"
    "|hiv-positive|infertile|anorexic|bulimic|alcoholic|an addict|deaf|paralysed|paralyzed"
    "|immunocompromised|wheelchair-bound|asthmatic|depressed|terminally ill|in rehab|transgender"
)
FAITH = (
    "muslim|jewish|jew|hindu|sikh|buddhist|christian|catholic|protestant|evangelical|baptist|methodist"
    "|lutheran|mormon|orthodox|atheist|agnostic|jehovah's witness|scientologist|quaker|pagan|wiccan"
    "|shia|sunni|zoroastrian|jain"
)
CONVERTED = "islam|judaism|christianity|hinduism|buddhism|catholicism"
POLITICS = (
    "democrat|republican|socialist|communist|conservative|liberal|libertarian|anarchist|marxist"
    "|fascist|tory|monarchist|feminist|trump supporter"
)
SEXUALITY = (
    "gay|lesbian|bisexual|bi|queer|pansexual|asexual|homosexual|heterosexual|transgender|trans"
    "|nonbinary|non-binary|intersex|polyamorous|closeted"
)
ORIGIN = (
    "african american|african-american|black|white|hispanic|latino|latina|latinx|asian|arab|kurdish"
    "|roma|romani|uyghur|native american|indigenous|aboriginal|maori|māori|inuit|mixed-race"
    "|biracial|cherokee|navajo|undocumented|an immigrant|an illegal immigrant"
    "|a refugee|american|mexican"
    "|german|french|italian|spanish|polish|russian|ukrainian|turkish|greek|irish|british|english|scottish"
    "|chinese|japanese|korean|vietnamese|thai|filipino|indian|pakistani|bangladeshi|iranian|iraqi"
    "|syrian|afghan|lebanese|egyptian|moroccan|algerian|tunisian|nigerian|ghanaian|kenyan|ethiopian"
    "|somali|eritrean|sudanese|brazilian|colombian|venezuelan|argentinian|chilean|peruvian|cuban"
    "|haitian|jamaican|portuguese|dutch|belgian|swiss|austrian|swedish|norwegian|danish|finnish"
    "|hungarian|romanian|bulgarian|serbian|croatian|bosnian|albanian|israeli|palestinian|canadian"
    "|australian"
)
CONVICTED = (
    "arrested|convicted|imprisoned|incarcerated|indicted|sentenced|jailed|on parole|on probation"
    "|on bail|in prison|in jail|charged|found guilty|a felon|a sex offender"
)
# Terms in the patterns besides the lists.
OTHER_HEALTH = "allergic|psychiatrist|oncologist|rehab"
OTHER_POLITICS = "vote|votes|voted|party"
OTHER_UNION = "union|steward"
OTHER_SEXUALITY = "out"
OTHER_CRIME = "criminal record|conviction|arrest|prison sentence|dui"


_RELATIVES = (
    "mother|father|mom|mum|dad|parents?|sister|brother|son|daughter|child|kids?|baby|wife|husband"
    "|partner|spouse|girlfriend|boyfriend|fianc[eé]e?|friend|grand(?:mother|father|ma|pa|son"
    "|daughter)|aunt|uncle|cousin|nephew|niece|roommate|neighbou?r|boss|colleague|coworker|co-worker"
    "|patient|client|employee|student|tenant|teacher|landlord|ex(?:-\\w+)?|family"
)
_SOMEONE = (
    rf"(?:i|we|he|she|(?:my|our|his|her|your|the)[ ](?:\w+[ ])?(?:{_RELATIVES})|(?:the[ ])?patient"
    r"|pt|(?:mr|mrs|ms|dr)\.?[ ]\w+)"
)
_IS = (
    r"(?:[ ]?['’](?:m|s|re|ve)|[ ](?:am|is|are|was|were|been|being|be)|[ ](?:have|has|had)[ ]been)"
)
_FILL = r"(?:[ ](?!not\b|no\b|never\b)[\w'’-]+){0,3}?"

_ENDS = r"(?![\w-])"


def _any(listed: str) -> str:
    return listed.replace(" ", "[ ]").replace("'", "['’]").replace("-", "[- ]")


_PATTERNS: tuple[tuple[str, str], ...] = (
    (
        "HEALTH",
        rf"{_SOMEONE}(?:['’]ve|['’]s)?(?:[ ]\w+)?[ ](?:have|has|had|got|developed|suffers?|suffered"
        rf"|suffering|lives?[ ]with|struggl\w+|recover\w+|survived|beat|diagnosed"
        rf"|tested[ ]positive)"
        rf"(?:[ ](?:from|with|for))?{_FILL}[ ](?P<a>{_any(ILLNESS)}){_ENDS}",
    ),
    (
        "HEALTH",
        rf"(?:diagnosed[ ]with|tested[ ]positive[ ]for|(?:being|was|were|am|is)[ ]treated[ ]for"
        rf"|history[ ]of|complains[ ]of|died[ ](?:of|from)|allergic[ ]to){_FILL}[ ]"
        rf"(?P<b>{_any(ILLNESS)}|(?<=allergic[ ]to[ ])\w+){_ENDS}",
    ),
    ("HEALTH", rf"{_SOMEONE}{_IS}{_FILL}[ ](?P<c>{_any(STATE)}){_ENDS}"),
    (
        "HEALTH",
        rf"{_SOMEONE}(?:{_IS})?(?:[ ]\w+)?[ ](?:takes?|taking|took|on|uses?|using|prescribed"
        rf"|started){_FILL}[ ](?P<d>{_any(REMEDY)}){_ENDS}",
    ),
    (
        "HEALTH",
        rf"my[ ](?:\w+[ ])?(?P<e>{_any(ILLNESS)}|psychiatrist|oncologist|rehab){_ENDS}",
    ),
    (
        "RELIGION",
        rf"{_SOMEONE}{_IS}(?:[ ](?:an?|very|devout|practi[cs]ing|raised|born))*[ ]"
        rf"(?P<f>{_any(FAITH)}){_ENDS}",
    ),
    ("RELIGION", rf"converted[ ]to[ ](?P<g>{_any(CONVERTED)}){_ENDS}"),
    (
        "POLITICS",
        rf"{_SOMEONE}{_IS}(?:[ ](?:an?|registered|lifelong|very|proud))*[ ]"
        rf"(?P<h>{_any(POLITICS)}){_ENDS}",
    ),
    (
        "POLITICS",
        rf"{_SOMEONE}(?:[ ](?:will|always|have|has))?[ ](?P<i>vot(?:e|es|ed)[ ]for[ ]\w+){_ENDS}",
    ),
    ("POLITICS", rf"(?P<j>(?:member|supporter)[ ]of[ ]the[ ](?:[\w-]+[ ]){{1,3}}party){_ENDS}"),
    (
        "UNION",
        r"(?P<k>(?:member|organi[sz]er|rep)[ ]of[ ](?:a|the|my|our)[ ](?:[\w-]+[ ]){0,3}union"
        rf"|(?:my|our)[ ](?:trade[ ]|labou?r[ ])?union"
        rf"|joined[ ](?:a|the)[ ](?:[\w-]+[ ]){{0,2}}union"
        rf"|shop[ ]steward){_ENDS}",
    ),
    (
        "SEXUALITY",
        rf"{_SOMEONE}{_IS}(?:[ ](?:an?|openly|secretly|also|actually))*[ ]"
        rf"(?P<l>{_any(SEXUALITY)}){_ENDS}",
    ),
    (
        "SEXUALITY",
        rf"(?:c[ao]me|coming)[ ]out[ ](?:as[ ])?(?P<m>{_any(SEXUALITY)}"
        rf"|to[ ](?:my|his|her|their)){_ENDS}",
    ),
    (
        "ETHNICITY",
        rf"{_SOMEONE}{_IS}(?:[ ](?:half|part|originally|ethnically))*[ ]"
        rf"(?P<n>{_any(ORIGIN)}){_ENDS}",
    ),
    ("CRIME", rf"{_SOMEONE}(?:{_IS}|[ ]got){_FILL}[ ](?P<o>{_any(CONVICTED)}){_ENDS}"),
    (
        "CRIME",
        rf"(?:my|his|her)[ ](?P<p>criminal[ ]record|conviction|arrest|prison[ ]sentence"
        rf"|dui){_ENDS}",
    ),
)
_COMPILED: dict[str, list[re.Pattern[str]]] = {}
for _label, _pattern in _PATTERNS:
    _COMPILED.setdefault(_label, []).append(
        re.compile(r"(?<![\w-])" + _pattern.replace("[ ]", r"[ \n]"), re.IGNORECASE)
    )

# Most texts hold none of these words, and are not searched further.
_WORD = re.compile(r"\w+")
_LISTS = (
    ("HEALTH", f"{ILLNESS}|{REMEDY}|{STATE}|{OTHER_HEALTH}"),
    ("RELIGION", f"{FAITH}|{CONVERTED}"),
    ("POLITICS", f"{POLITICS}|{OTHER_POLITICS}"),
    ("UNION", OTHER_UNION),
    ("SEXUALITY", f"{SEXUALITY}|{OTHER_SEXUALITY}"),
    ("ETHNICITY", ORIGIN),
    ("CRIME", f"{CONVICTED}|{OTHER_CRIME}"),
)


def _labels_by_key() -> dict[str, set[str]]:
    """Return the labels that a word may belong to: the first of a term, or its last of several."""
    labels: dict[str, set[str]] = {}
    for label, listed in _LISTS:
        for term in listed.split("|"):
            key = _WORD.findall(term.split()[-1])[0]
            labels.setdefault(key, set()).add(label)
    return labels


_KEYS = _labels_by_key()
_STATEMENT_CHARS = 120


class StatementDetector:
    """Finds statements about a person that fall under special categories (GDPR, article 9 and 10).

    The span covers the statement, not the person.
    """

    name = "statement"
    labels: Sequence[str] = tuple(dict.fromkeys(label for label, _ in _PATTERNS))

    def detect(self, text: str) -> Sequence[Span]:
        """Return the statements of a text."""
        spans: set[Span] = set()
        if _KEYS.keys().isdisjoint(_WORD.findall(text.lower())):
            return []
        done: dict[str, int] = {}
        for hint in _WORD.finditer(text):
            labels = _KEYS.get(hint[0].lower())
            if labels is None or hint.start() < min(done.get(label, 0) for label in labels):
                continue
            # The patterns are slow, so they read only the surroundings of such a word.
            start = max(0, hint.start() - _STATEMENT_CHARS)
            end = min(len(text), hint.end() + _STATEMENT_CHARS)
            done.update(dict.fromkeys(labels, hint.end() + _STATEMENT_CHARS // 2))
            for label in labels:
                for pattern in _COMPILED[label]:
                    for match in pattern.finditer(text, start, end):
                        spans.add(Span(*match.span(match.lastgroup or 0), label))
        return sorted(spans)
