"""The words that make a statement about a person fall under a special category."""

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
# What patterns know besides the lists.
OTHER_HEALTH = "allergic|psychiatrist|oncologist|rehab"
OTHER_POLITICS = "vote|votes|voted|party"
OTHER_UNION = "union|steward"
OTHER_SEXUALITY = "out"
OTHER_CRIME = "criminal record|conviction|arrest|prison sentence|dui"
