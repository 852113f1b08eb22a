"""Statements about persons are found in natural wording, and ordinary texts are let be."""

from __future__ import annotations

import time

import pytest

from floe_plugins.gate.detectors.special_categories import StatementDetector

DETECTOR = StatementDetector()


def found(text: str) -> list[tuple[str, str]]:
    return [(text[span.start : span.end], span.label) for span in DETECTOR.detect(text)]


# The rules were written with these.
DEVELOPMENT = (
    "I found a hard lump under my left arm last week",
    "My husband hits me when he drinks",
    "Patient is a 38-year-old male with a history of headaches",
    "This 79 year old female complains of chest pain",
    "The patient takes Coumadin, Lasix and atenolol.",
    "My blood pressure is 160/100",
    "I was raped at nineteen",
    "I've had thoughts of not wanting to be alive anymore",
    "I am an undocumented immigrant",
    "I use cocaine on weekends",
    "My father retired at the age of 61",
    "I can't stop crying and I feel worthless most days",
    "My wife cheated on me with her boss and I don't know what to do",
    "I think I might be bisexual but I am scared to tell my parents",
    "I have been feeling very anxious lately and have trouble sleeping",
    "My stomach has been hurting for three days",
    "I've had a cough and a fever since Monday",
    "She was diagnosed with stage two breast cancer in March",
    "My mom has dementia and keeps forgetting my name",
    "I've been on Zoloft for two years but it makes me tired",
    "My boyfriend gets violent and pushed me down the stairs",
    "I was molested by my uncle when I was a kid",
    "My son was arrested for burglary last week",
    "I voted for the AfD last year",
    "I just got out of prison and can't find a job",
    "I've been sober for six months but I want a drink",
    "He has type 2 diabetes and high blood pressure",
    "My knee is swollen and I can't bend it",
    "I have a history of panic attacks",
    "My daughter cuts herself and won't talk to me",
    "I keep hearing voices at night",
    "I'm a Muslim woman and my family wants me to marry",
    "I was raised Catholic but I lost my faith in God",
    "I had an abortion when I was seventeen",
    "I'm HIV positive and afraid to tell my partner",
    "Lately I've been drinking every night to fall asleep",
    "My therapist says that I have abandonment issues",
    "I hate my body and make myself throw up after dinner",
    "I'm attracted to men even though I'm married to a woman",
    "My mother tried to commit suicide when I was ten",
    "I am transgender and want to start hormones",
    "The pain in my lower back goes down my leg",
    "I've been having chest pain when I climb stairs",
    "My doctor put me on lisinopril for my blood pressure",
    "My dad is an alcoholic and screams at us",
    "I'm 16 and I'm pregnant",
    "My sister is addicted to heroin",
    "I got a DUI last summer and lost my license",
    "I overstayed my visa and I'm afraid of deportation",
    "My brother joined a far right party",
    "I've been struggling with depression since my divorce",
    "Sometimes I wish I was dead",
    "My ex stalks me and threatens to post my nudes",
    "He forced me to have sex with him",
    "I broke my wrist playing football",
    "I am allergic to penicillin",
    "I've got a rash all over my chest",
    "My period is two weeks late",
    "I have low self-esteem and social anxiety",
    "My uncle went to jail for fraud",
    "We are Jehovah's Witnesses",
    "I'm a member of the Communist Party",
    "I have no libido since I started the pill",
    "My grandmother had a stroke in 2019",
    "I shoplifted a jacket yesterday",
    "Ich habe Depressionen und nehme Antidepressiva",
    "Mein Mann schlägt mich",
    "Je souffre d'un cancer",
    "J'ai le diabète depuis dix ans",
    "Tengo ansiedad y no puedo dormir",
    "Mi marido me pega",
    "Soffro di depressione",
    "Mia madre ha il cancro",
    "Ich bin schwul",
    "Soy musulmana",
    "I have so many issues, I went through sexual abuse as a child and now I cannot trust men",
    "How do I stop feeling like I am a burden to everyone around me?",
    "I get angry over nothing and then I cry for hours",
    "My girlfriend left me and I feel like nothing matters anymore",
    "I don't sleep, I don't eat, I just lie in bed thinking about dying",
    "I'm a straight guy but I have fantasies about men",
    "Every time my father drinks he beats my mother",
    "My teenage son was diagnosed with ADHD",
    "I see my psychiatrist every month",
    "Ever since the accident my neck feels stiff",
    "My left foot goes numb when I sit",
    "I vomited twice this morning",
    "I've got sharp pains in my side",
    "I'm on birth control but missed my period",
    "I take two pills of metformin a day",
    "I had my appendix out in 2005",
    "I fell and hurt my shoulder",
    "It burns when I pee",
    "My vision has been blurry since last night",
    "I've lost twenty pounds without trying",
    "Mr. Jones is a 65-year-old man with COPD",
    "The patient denies fever or chills",
    "She underwent a hysterectomy in 2010",
    "My baby has a high temperature and a rash",
    "My wife and I haven't had sex in a year",
    "I caught my husband watching porn",
    "My stepfather used to touch me at night",
    "I was bullied at school and now I am afraid of people",
    "I'm on probation for assault",
    "I stole money from my employer",
    "My cousin sells drugs",
    "I got arrested for drunk driving",
    "I go to mass every Sunday because I'm Catholic",
    "Our imam told me to fast",
    "We voted for Trump in both elections",
    "I'm a registered Democrat",
    "I think I'm going crazy",
    "I keep having nightmares about the war",
    "I was born a girl but I feel like a boy",
    "My counselor thinks I have PTSD",
    "I can't control my drinking",
    "I gamble away my whole salary",
    "My husband has been emotionally abusive for years",
    "I feel empty inside and I want to disappear forever",
    "I've been cutting my arms again",
    "My mom slapped me",
    "Someone at work groped me",
    "I'm scared of my boyfriend",
    "I suffer from social anxiety and can't talk to people",
    "My mother passed away from lung cancer",
    "I came here illegally when I was five",
    "My asylum claim was rejected",
    "I have flashbacks of the rape",
    "My panic attacks are getting worse",
    "Doctor: What brings you in? Patient: I have been coughing a lot.",
    "I had a heart bypass three years ago",
    "I'm lactose intolerant and my belly gets bloated",
    "He's got hepatitis C",
    "I can't get an erection",
    "I've been trying to conceive for two years",
)
# These were written before the rules had seen them: 55 of 82 were found at first.
HELD_OUT = (
    "For about a month now my lower back has been killing me",
    "There's a weird bump on my tongue that won't go away",
    "My husband snores and the doctor suspects sleep apnea",
    "Our toddler came down with croup and is barking like a seal",
    "I threw up all night and my temperature went to 103",
    "The doc wants me to get a colonoscopy next week",
    "My grandpa is in hospice with pancreatic cancer",
    "She's bipolar and refuses her meds",
    "Two of my molars are rotten and my jaw is throbbing",
    "I went blind in one eye after the surgery",
    "My left ear has been ringing since the concert",
    "After the birth of my second child I fell into a deep postpartum depression",
    "I take metoprolol twice daily and still get palpitations",
    "He had a vasectomy but she is pregnant",
    "My A1C came back at 9",
    "A 54-year-old woman presented with hematuria and flank pain",
    "Pt is a 23 yo F with asthma exacerbation",
    "This is a 61-year-old gentleman who underwent coronary artery bypass",
    "Patient reports nausea and dizziness after starting lisinopril",
    "The patient is status post appendectomy",
    "I can barely get out of bed and nothing brings me joy",
    "Everybody would be happier if I were gone",
    "I swallowed a whole bottle of pills last night",
    "I have a plan to end my life this weekend",
    "My daughter has been burning her arms with cigarettes",
    "I keep thinking about jumping in front of a train",
    "I don't see a reason to live anymore",
    "My best friend took her own life last year",
    "Ever since the funeral I have panic attacks in crowded rooms",
    "I binge eat at night and then hate myself",
    "I wash my hands fifty times a day and can't stop",
    "I dissociate whenever somebody raises their voice",
    "My girlfriend throws things at me and calls me names",
    "My dad used to beat us with a belt",
    "I was sexually assaulted at a party in college",
    "A man followed me home and groped me",
    "My ex strangled me once and I never told anyone",
    "My coach touched me inappropriately when I was twelve",
    "I escaped an abusive marriage two years ago",
    "Her father molested her for years",
    "I've been shooting heroin again",
    "My brother overdosed on fentanyl",
    "I smoke weed every day to calm my nerves",
    "I can't stop drinking, I hide bottles all over the house",
    "My roommate snorts coke in our bathroom",
    "I think I'm a lesbian but I've been married to a man for ten years",
    "My son told us he is gay",
    "I have never had an orgasm with my husband",
    "I slept with my best friend's wife",
    "My wife has no interest in sex any more",
    "I came out as trans to my family and they threw me out",
    "I'm a practicing Buddhist",
    "My parents are strict Mormons and would disown me",
    "I left Islam and my family doesn't know",
    "My wife is Jewish and I converted to Judaism",
    "I've voted Republican all my life",
    "My father was a member of the Communist Party",
    "I canvassed for the Green Party",
    "I did two years in state prison for armed robbery",
    "My husband was convicted of tax fraud",
    "There is a warrant out for my arrest",
    "I hit a parked car while drunk and drove off",
    "I sold pills in high school",
    "I'm in this country without papers",
    "My mother was deported to Honduras",
    "I'm on a student visa that expired in June",
    "I organized a union at my warehouse",
    "My neighbor is a registered sex offender",
    "Seit Monaten leide ich unter Panikattacken",
    "Meine Tochter ritzt sich",
    "Mein Vater hatte einen Schlaganfall",
    "Ich bin vorbestraft",
    "Ma mère souffre d'Alzheimer",
    "Mon mari me frappe",
    "Je suis enceinte de trois mois",
    "Je suis musulmane",
    "Mi hijo tiene autismo",
    "Estoy embarazada y tengo miedo",
    "Soy gay y mis padres no lo saben",
    "Mio padre ha avuto un infarto",
    "Sono incinta",
    "Mi sento depressa",
)

CLEAR = (
    "What helps against asthma?",
    "Explain the causes of the depression of 1929 in simple terms.",
    "Write a story about a detective who solves a murder.",
    "Is there a link between diabetes and heart disease?",
    "I have a question about cancer research.",
    "I have to write an essay on HIV.",
    "I need a list of drugs that interact with warfarin.",
    "My back-end returns an error for this request.",
    "My function hits the limit when I call it twice.",
    "I am not pregnant",
    "The patients in the study were treated for hypertension.",
    "Does smoking increase the risk of stroke in women?",
    "How do I kill a process on Linux?",
    "My code depends on a library that was deprecated.",
    "I have 30 students in my class and 5 of them are late.",
    "The union of two sets contains all elements of both.",
    "Members of the European Parliament voted on the budget.",
    "We use hit counters to see how often pages are read.",
    "I feel that the answer is too long, please shorten it.",
    "Translate: the church was built in 1850.",
    "Was sind die Symptome von Diabetes?",
    "Quels sont les traitements contre le cancer ?",
    "¿Cuáles son las causas de la depresión?",
    "Quali sono i sintomi dell'asma?",
    "Elenca i sintomi del cancro e i rimedi che la medicina conosce.",
)


def share(texts: tuple[str, ...]) -> float:
    return sum(bool(found(text)) for text in texts) / len(texts)


def test_statements_are_found() -> None:
    assert share(DEVELOPMENT) >= 0.95
    assert share(HELD_OUT) >= 0.9


@pytest.mark.parametrize("text", CLEAR)
def test_ordinary_texts_are_let_be(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("I voted for the Greens last year", [("voted for the Greens", "POLITICS")]),
        ("My son was arrested for shoplifting", [("arrested for shoplifting", "CRIME")]),
        ("My wife takes Lipitor and Lasix", [("Lipitor and Lasix", "HEALTH")]),
        ("My aunt died at the age of 48", [("age of 48", "AGE")]),
        ("There is swelling in my ankle", [("swelling in my ankle", "HEALTH")]),
        ("My boss threatened me", [("threatened me", "CRIME")]),
        ("I’ve been thinking about suicide", [("thinking about suicide", "HEALTH")]),
        ("My sister converted to Islam", [("converted to Islam", "RELIGION")]),
    ],
)
def test_a_finding_covers_what_is_said(text: str, findings: list[tuple[str, str]]) -> None:
    assert found(text) == findings


def test_a_name_of_an_illness_or_a_medicine_is_told_by_its_end() -> None:
    assert found("I have polychondritis") == [("polychondritis", "HEALTH")]
    assert found("I take zofenopril") == [("zofenopril", "HEALTH")]


def test_a_sentence_says_nothing_about_the_person_of_another() -> None:
    assert found("I like it. Cancer is a zodiac sign.") == []
    assert found("My son.\n\nAsthma: what is it?") == []


@pytest.mark.parametrize(
    "unit", ["I have ", "my son my ", "patient: ", "9 year old with ", "kill my "]
)
def test_a_long_text_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        started = time.thread_time()
        DETECTOR.detect(text)
        return time.thread_time() - started

    seconds(1000)
    assert seconds(160_000) < 32 * max(seconds(20_000), 0.02)
