"""English words of accounts of one's health and private life, by what they are evidence of."""

from typing import Final


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


SELF: Final = _words("i my me myself ive i'm i've i'd mine")
"""Whoever speaks of themselves."""

KIN: Final = _words(
    "husband wife boyfriend girlfriend bf gf fiance fiancé fiancée partner ex hubby spouse"
    " mother father mom mum mummy dad daddy parents sister brother son daughter child kid kids"
    " baby toddler stepson stepdaughter stepmother stepfather stepdad stepmom grandmother"
    " grandfather grandma grandpa gran nan aunt uncle cousin niece nephew sibling twin inlaws"
    " mil newborn infant"
)
"""People of somebody's family."""

PARTNER: Final = _words(
    "husband wife boyfriend girlfriend bf gf fiance fiancé fiancée partner ex exes hubby spouse"
    " marriage married relationship dating lover couple"
)
"""A couple."""

SYMPTOM: Final = _words(
    "pain painful ache aching sore hurt swell swollen swelling swelled rash itch itching itchy"
    " bump lump blister bruise bleed bleeding blood pus discharge fever cough coughing"
    " sneeze phlegm mucus wheeze breathless vomit vomiting vomited nausea nauseous diarrhea"
    " diarrhoea constipation constipated stool urine pee urinate wee dizzy dizziness faint"
    " fainted fatigue tired exhausted weak weakness numb numbness tingling cramp cramping"
    " bloat bloated burning sting stinging twitch tremor shake shaking palpitation flutter"
    " sweat sweating chills swallow hoarse headache migraine vertigo blurred blurry floaters"
    " infection infected inflamed inflammation allergy allergic acne pimple eczema psoriasis"
    " wart mole scab scar peel peeling flaky limp stiff stiffness clicks throb throbbing"
    " snore snoring insomnia asleep sleepless hiccups reflux heartburn indigestion ulcer hernia"
    " piles haemorrhoids hemorrhoids fissure menstrual ovulation pregnant pregnancy"
    " miscarriage conceive ivf semen sperm erection discoloured discolored puffy runny congested"
    " fracture broken sprain sprained torn tear ligament gout arthritis asthma diabetes diabetic"
    " cholesterol hypertension thyroid anaemia anemia tumor tumour cancer cyst polyp nodule"
    " fibroid seizure stroke lesion bitten bite burn burnt wound stitches dehydrated"
    " threadworm lice scabies spotting clots menopause jaundice lymph gland tonsils"
    " throwing obese underweight overdose"
)
"""What an illness feels or looks like, and its name."""

BODY: Final = _words(
    "head forehead scalp face eye eyelid ear nose mouth lip tongue tooth teeth gum jaw throat"
    " neck shoulder arm elbow wrist finger thumb nail chest breast nipple back spine rib"
    " stomach tummy belly abdomen bowel groin penis testicle vagina vulva anus bum bottom"
    " buttock hip thigh leg knee shin calf ankle foot feet toe heel skin heart lung liver kidney"
    " bladder prostate uterus womb ovary ovaries joint muscle bone nerve vein armpit cheek"
    " tonsil gallbladder appendix cervix toenail"
)
"""Parts of a body."""

MEDICINE: Final = _words(
    "mg ml mcg tablet pill dose medicine medication meds antibiotic ibuprofen paracetamol"
    " tylenol calpol amoxicillin steroid cream ointment gel drops inhaler injection vaccine jab"
    " shot insulin metformin omeprazole cetirizine antihistamine prednisone prednisolone"
    " sertraline fluoxetine venlafaxine zolpidem antidepressant prescription prescribed"
    " supplement chemo chemotherapy radiotherapy contraceptive tetanus permethrin allopurinol"
    " statin levothyroxine thyroxine colchicine aspirin painkiller"
)
"""Medicines and doses."""

FINDING: Final = _words(
    "scan mri ct ultrasound xray x-ray ecg ekg holter biopsy endoscopy colonoscopy bloods tsh"
    " t4 alt ast ggt hba1c b12 ferritin hemoglobin haemoglobin prolactin creatinine platelets"
    " esr crp psa bp pap smear swab positive negative diagnosed diagnosis labs"
)
"""Examinations and what they find."""

CLINIC: Final = _words(
    "doctor doc dr gp dentist physician surgeon nurse midwife pharmacist dermatologist"
    " cardiologist gynaecologist gynecologist psychiatrist psychologist therapist counsellor"
    " counselor therapy counselling counseling hospital clinic er a&e optician physio"
    " orthopaedic neurologist urologist rehab specialist paediatrician pediatrician ward surgery"
    " operation"
)
"""Who treats, and where."""

COURSE: Final = _words(
    "week month day since ago morning night yesterday hours year daily nightly lately recently"
    " again"
)
"""Since when, and how often."""

FEELING: Final = _words(
    "feel feeling felt cry crying cried cries sob sobbing tears sad sadness depressed"
    " depression anxious anxiety panic scared afraid frightened terrified fear angry anger rage"
    " upset hurt lonely loneliness alone hopeless worthless useless guilt guilty ashamed shame"
    " jealous jealousy insecure overwhelmed stressed stress numb empty emptiness miserable"
    " confused worry worried nightmare cope coping struggle struggling broken heartbroken"
    " betrayed unloved desperate awful horrible suffer trauma traumatic ptsd grief grieving"
    " mourn trapped invisible disgusted disgusting embarrassed humiliated failure burden"
    " suicidal suicide dying death died funeral passed self-harm cutting"
    " overthink paranoid obsessed obsessive intrusive flashback dissociate mood bipolar ocd adhd"
    " anorexia bulimia binge purge addicted addiction drinking drunk drink drank gamble gambling"
    " cocaine weed pills relapse relapsed sober rehab porn"
)
"""Feelings, despair, addiction."""

CONFLICT: Final = _words(
    "argue arguing argument fight yell yelling scream screaming shout hit slap slapped push"
    " shove threaten threatened abuse abused abusive abuser rape raped assault assaulted"
    " molested controlling manipulate manipulative gaslight gaslighting narcissist lie"
    " lied lying cheat cheating affair unfaithful trust divorce divorced divorcing separated"
    " separation breakup custody blame forgive apologise apologize resent"
    " resentment toxic bully bullied ignore cold jealous dumped rejected secret hiding"
    " intimacy intimate sex sexual libido orgasm climax attracted gay lesbian bisexual trans"
    " virgin kissed naked touch touched sleeping"
)
"""What happens between people who are close."""

TASK: Final = _words(
    "write rewrite generate create summarise summarize explain translate list draft compare"
    " describe proofread fix implement design suggest recommend code function python story poem"
    " essay article email letter slides spreadsheet excel recipe plan convert calculate"
)
"""What an assistant is asked to make: evidence against an account."""
