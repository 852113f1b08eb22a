"""English words of statements about a person, by the part that they play in one.

Each part has a sign, see `PARTS`. `special_categories` says which orders of parts are a statement.
"""

from typing import Final

PARTS: Final[dict[str, str]] = {
    # Who.
    "I": "i|we|im|ive",
    "M": "me|myself|us|ourselves",
    "Y": "my|our",
    "Z": "his|her|their",
    "E": "he|she",
    "T": "patient|pt|this pt",
    "D": "mr|mrs|ms|dr|mr.|mrs.|ms.|dr.",
    "R": "mother|father|mom|mum|mommy|dad|daddy|parent|parents|sister|sisters|brother|brothers|son"
    "|sons|daughter|daughters|child|children|kid|kids|baby|toddler|wife|husband|partner|spouse"
    "|girlfriend|boyfriend|fiance|fiancé|fiancée|fiancee|friend|friends|bf|gf|ex|stepfather"
    "|stepdad|stepmother|stepmom|grandmother|grandfather|grandma|grandpa|grandson|granddaughter"
    "|aunt|uncle|cousin|nephew|niece|roommate|neighbor|neighbour|boss|colleague|coworker|co worker"
    "|client|employee|student|tenant|teacher|landlord|family|twin|mother in law|father in law"
    "|in laws|sister in law|brother in law|manager|supervisor|flatmate|housemate",
    "W": "male|female|man|woman|boy|girl|gentleman|lady|guy|teenager|mom|mother|infant",
    # What joins a person and a statement.
    "B": "am|is|are|was|were|be|been|being|'m|'s|'re|feel|feels|feeling|felt|become|became"
    "|becoming|get|gets|getting|seem|seems|looks|im|went|identify as|identifies as|consider myself"
    "|raised|born|stay|stayed|remain|turned out",
    "H": "have|has|had|having|'ve|'d|got|suffer|suffers|suffered|suffering|struggle|struggles"
    "|struggled|struggling|experience|experienced|experiencing|dealing|dealt|deal with|deals with"
    "|developed|develop|developing|diagnosed|battle|battles|battled|battling|fighting|recovering"
    "|recovered|survived|survivor|caught|contracted|presents|presented|presenting|complains"
    "|complained|complaining|reports|reported|notes|noted|lives with|live with|living with"
    "|lived with|coping|cope with|noticed|noticing|went through|going through|gone through"
    "|been through|go through|found|underwent|undergoing|undergo|need|needs|needed|waiting for"
    "|lost|develops|tested|treated|treating|hospitalized for|hospitalised for|admitted|cause me"
    "|gives me|giving me|gave me|causing|brought on|history|fight|ive|keep having|keeps having"
    "|kept having|inherited",
    "N": "not|no|never|'t|without|cannot|nor|hardly|rarely|dont|cant",
    "Q": "question|questions|about|essay|article|paper|presentation|book|books|project|story"
    "|stories|research|dataset|data|exam|idea|ideas|write|writing|wrote|poem|song|movie|film|novel"
    "|character|characters|game|study|studies|studying|awareness|lecture|class|homework|quiz"
    "|report on|campaign|explain|speech|blog|documentary|scene|learn|learning|understand|read"
    "|reading|list|called|named|function|code|example|topic|market|economic|interested|information"
    "|blog post|slogan|startup|company|company's|app|website|interview|train|model|score|hit song",
    "V": "have to|has to|had to|having to|got to|have been|has been|had been",
    "A": "as a|as an",
    "K": "take|takes|taking|took|taken|on|use|uses|using|used|prescribed|prescribes|started|starts"
    "|put on|off|stopped|inject|injects|injecting|snort|snorts|snorted|smoke|smokes|smoking|smoked"
    "|drink|drinks|drinking|do|does|did|doing|tried|trying|addicted|sell|sells|sold|buy|buys"
    "|hooked|high|relapsed|clean from|swallowed|quit",
    # Health.
    "c": "diabetes|asthma|cancer|breast cancer|tumor|tumour|leukemia|leukaemia|lymphoma|melanoma"
    "|carcinoma|sarcoma|metastasis|metastases|epilepsy|seizure|migraine|arthritis|hypertension"
    "|high blood pressure|low blood pressure|high cholesterol|heart attack|heart failure"
    "|heart disease|heart condition|heart murmur|heart surgery|a stroke|strokes|mini stroke"
    "|pneumonia|bronchitis|sinusitis|tuberculosis|hepatitis|hiv|aids|std|stds|sti|herpes|chlamydia"
    "|syphilis|gonorrhea|gonorrhoea|hpv|anemia|anaemia|lupus|psoriasis|eczema|multiple sclerosis"
    "|parkinson|parkinsons|alzheimer|alzheimers|dementia|schizophrenia|psychosis|bipolar|autism"
    "|asperger|aspergers|adhd|ocd|ptsd|bpd|depression|anxiety|panic attack|panic|anorexia|bulimia"
    "|eating disorder|obesity|insomnia|nightmare|flashback|kidney disease|kidney failure"
    "|kidney stone|dialysis|ulcer|celiac|coeliac|crohn|crohns|ibs|colitis|endometriosis|pcos"
    "|infertility|miscarriage|abortion|stillbirth|chemo|chemotherapy|radiation therapy|transplant"
    "|covid|malaria|sickle cell|cystic fibrosis|down syndrome|down's syndrome|cerebral palsy"
    "|glaucoma|cataract|osteoporosis|fibromyalgia|sleep apnea|sleep apnoea|hypothyroidism|thyroid"
    "|copd|emphysema|angina|addiction|alcoholism|overdose|erectile dysfunction"
    "|personality disorder|mood disorder|panic disorder|anxiety disorder|sleep disorder"
    "|bipolar disorder|learning disability|dyslexia|concussion|gerd|acid reflux|heartburn|gout"
    "|sciatica|scoliosis|hernia|herniated disc|gallstone|appendicitis|diverticulitis|pancreatitis"
    "|cirrhosis|fibroid|cyst|polyp|shingles|measles|chickenpox|mumps|lyme disease|meningitis"
    "|sepsis|infection|uti|yeast infection|vertigo|tinnitus|neuropathy|arrhythmia|afib"
    "|atrial fibrillation|palpitation|blood clot|embolism|aneurysm|varicose veins|hemorrhoid"
    "|haemorrhoid|jaundice|allergy|allergies|hay fever|hives|anaphylaxis|phobia|social anxiety"
    "|dissociation|hallucination|delusion|mania|manic episode|mental illness|mental breakdown"
    "|nervous breakdown|mental health issue|mental health problem|self esteem issue"
    "|low self esteem|anger issue|trust issue|abandonment issue|mood swing|intrusive thought"
    "|burnout|postpartum depression|hot flash|menopause|fever|cough|cold sweats|night sweats"
    "|chills|nausea|vomiting|diarrhea|diarrhoea|constipation|headache|head ache|dizziness"
    "|dizzy spell|fatigue|fainting|chest pain|back pain|stomach pain|abdominal pain|joint pain"
    "|neck pain|knee pain|shoulder pain|hip pain|sore throat|stomach ache|stomachache|backache"
    "|toothache|earache|runny nose|shortness of breath|trouble breathing|difficulty breathing"
    "|trouble sleeping|difficulty sleeping|sleepless nights|trouble swallowing|blurred vision"
    "|blurry vision|double vision|weight loss|loss of appetite|memory loss|hearing loss"
    "|muscle weakness|fracture|broken arm|broken leg|broken hip|sprain|paralysis|amputation"
    "|disability|chronic pain|chronic illness|terminal illness|cramps|period pain"
    "|irregular periods|hot flashes|eating problem|drinking problem|drug problem|gambling problem"
    "|gambling addiction|porn addiction|sex addiction|withdrawal|withdrawals|cravings|low libido"
    "|gender dysphoria|brain injury|head injury|spasm|edema|hypotension|tachycardia|syncope"
    "|dyspnea|dysuria|hematuria|hyperlipidemia|dyslipidemia|hypothyroid|hyperthyroidism"
    "|coronary artery disease|congestive heart failure|diabetes mellitus|osteoarthritis"
    "|rheumatoid arthritis|spinal stenosis|degenerative disc disease|renal failure"
    "|suicidal thoughts|suicidal ideation|hot flushes|acne|wart|fungus|ringworm|scabies|lice|flu"
    "|influenza|strep|strep throat|appendix|gallbladder|pneumothorax|hiatal hernia|prolapse"
    "|dehydration|whiplash|laceration|frostbite|sunburn|heat stroke|bedsores|incontinence"
    "|tonsillitis|ear infection|reflux|mono|a cold",
    "l": "pain|pains|lump|lumps|swelling|rash|bump|bumps|bruise|bruises|burning|numbness|tingling"
    "|discharge|bleeding|itching|tightness|stiffness|weakness|mole|sores|blister|blisters|soreness"
    "|discomfort|ache|aches|cramping|ringing",
    "s": "pregnant|disabled|autistic|diabetic|epileptic|bipolar|schizophrenic|suicidal"
    "|hiv positive|infertile|anorexic|bulimic|alcoholic|an addict|drug addict|sex addict|addicted"
    "|deaf|blind|paralysed|paralyzed|immunocompromised|wheelchair bound|asthmatic|depressed"
    "|terminally ill|in rehab|transgender|anxious|worthless|hopeless|suicidal|traumatized"
    "|traumatised|numb inside|hospitalized|hospitalised|anemic|anaemic|obese|overweight"
    "|underweight|nauseous|dizzy|light headed|lightheaded|short of breath|out of breath"
    "|constipated|bloated|feverish|menopausal|bedridden|sober|in recovery|mentally ill"
    "|an insomniac|insomniac|a cancer survivor|cancer survivor|allergic|dying|sick all the time"
    "|so depressed|emotionally numb|empty inside|broken inside|paranoid|manic|psychotic"
    "|self harming|a burden|panicky|coughing|wheezing|vomiting|bleeding|hallucinating"
    "|seeing things|limping|incontinent|impotent|lactose intolerant|neurodivergent"
    "|tired all the time|exhausted all the time|on disability|in a wheelchair|barren|colorblind"
    "|a hypochondriac|borderline|in labor|menstruating|unloved|useless|self conscious",
    "b": "head|forehead|neck|throat|shoulder|shoulders|arm|arms|elbow|wrist|wrists|hand|hands"
    "|finger|fingers|chest|breast|breasts|back|lower back|spine|stomach|belly|abdomen|side|hip"
    "|hips|groin|penis|vagina|testicle|testicles|anus|rectum|thigh|leg|legs|knee|knees|calf|calves"
    "|ankle|ankles|foot|feet|toe|toes|heel|skin|scalp|face|jaw|tooth|teeth|gums|tongue|ear|ears"
    "|eye|eyes|nose|heart|lung|lungs|kidney|kidneys|liver|bladder|prostate|uterus|ovary|ovaries"
    "|joints|muscles|bones|urine|stool|bowel|bowels|armpit|butt|buttock|lip|lips|nipple|colon|body"
    "|ribs|rib",
    "h": "hurt|hurts|hurting|ache|aches|aching|ached|swollen|swelling|swells|swelled|burning|burns"
    "|bleeding|bleeds|bled|itches|itching|itchy|numb|stiff|sore|tender|throbbing|throbs|infected"
    "|broken|broke|sprained|fractured|tore|torn|tingling|cramping|inflamed|racing|pounding"
    "|killing me|acting up|bothering me|dislocated|twisted|injured|pops|cracks|gives out|gave out"
    "|locks up|shaking|goes numb|feels tight|is tight|amputated|removed|peeling|discolored|blurry"
    "|watery|stuffed|stuffy|upset",
    "d": "insulin|metformin|antidepressant|antidepressants|ssri|ssris|lithium|prozac|zoloft"
    "|lexapro|xanax|valium|ritalin|adderall|methadone|suboxone|oxycodone|oxycontin|morphine"
    "|opioids|opiates|warfarin|coumadin|lasix|atenolol|metoprolol|amlodipine|losartan|norvasc"
    "|lipitor|atorvastatin|simvastatin|plavix|clopidogrel|aspirin|statins|viagra|antiretrovirals"
    "|antipsychotics|sertraline|fluoxetine|prednisone|lisinopril|gabapentin|tramadol|birth control"
    "|the pill|hormones|testosterone|estrogen|estradiol|celexa|citalopram|escitalopram|wellbutrin"
    "|bupropion|paxil|effexor|cymbalta|seroquel|quetiapine|abilify|risperdal|zyprexa|lamictal"
    "|depakote|klonopin|clonazepam|ativan|lorazepam|ambien|trazodone|vyvanse|concerta|strattera"
    "|ibuprofen|tylenol|advil|motrin|aleve|acetaminophen|naproxen|percocet|vicodin|hydrocodone"
    "|codeine|fentanyl patch|albuterol|advair|singulair|inhaler|nexium|prilosec|omeprazole"
    "|synthroid|levothyroxine|humira|methotrexate|hydrochlorothiazide|spironolactone|amoxicillin"
    "|antibiotics|penicillin|azithromycin|cipro|steroids|painkillers|pain killers|sleeping pills"
    "|blood thinners|beta blockers|medication|medications|meds|medicine|medicines"
    "|anti anxiety meds|narcotics|ozempic|wegovy|truvada|prep",
    "m": "therapist|counselor|counsellor|psychiatrist|psychologist|oncologist|cardiologist"
    "|neurologist|gynecologist|obgyn|urologist|dermatologist|rheumatologist|endocrinologist"
    "|therapy|counseling|counselling|rehab|surgery|surgeries|biopsy|mri|ct scan|x ray|xray"
    "|colonoscopy|mammogram|pap smear|hysterectomy|mastectomy|vasectomy|ivf|chemo|diagnosis"
    "|symptoms|medication|medications|meds|pregnancy|period|periods|prescription|prescriptions"
    "|psych ward|mental hospital|detox|antidepressants|trauma|bypass|c section|caesarean|pacemaker"
    "|stent|catheter|colostomy|knee replacement|hip replacement|mental health|mental state"
    "|self harm|self esteem|depression|panic attacks",
    "i": "blood pressure|blood sugar|heart rate|bmi|a1c|cholesterol|blood type|sugar level|pulse"
    "|tsh|viral load|cd4|hemoglobin|platelets|white count|blood test|test results|lab results"
    "|bloodwork|blood work|temperature|fertility|erection|erections|libido|sex drive",
    "y": "get out of bed|brings me joy|dissociate|dissociating|stop drinking|binge eat"
    "|binge eating|bingeing|no longer feel|drunk|hungover|burned out|keep it down|cry|vomited"
    "|vomiting|going crazy|go crazy|control my drinking|gamble away|cutting my arms"
    "|cutting my wrists|cutting my legs|cut my wrists|burns when i pee|hurts when i|hurts to"
    "|hurt to|pounds without trying|nothing matters|feel like nothing|lose my mind|lost my mind"
    "|need help with my drinking|can 't sleep|cannot sleep|cant sleep|can not sleep"
    "|trouble sleeping|throwing up|threw up|passed out|fainted|blacked out|wet the bed"
    "|wets the bed|coughing|coughing up|crying all the time|cry all the time|stop crying|cry every"
    "|crying every|cry myself|miscarried|relapsed|overdosed|had a seizure|hear voices|hears voices"
    "|hearing voices|binge and purge|make myself throw up|panic attacks|can 't breathe"
    "|cant breathe|cannot breathe|starving myself|starve myself|purging|can 't get out of bed"
    "|can 't eat|lost my appetite|hyperventilate|pull my hair|pulling my hair|see a therapist"
    "|seeing a therapist|see a counselor|seeing a counselor|see a psychiatrist|keep hearing voices"
    "|keeps hearing voices|going to therapy|go to therapy|in therapy|in counseling"
    "|on antidepressants|went to the er|in the er|in the icu|in hospice|in the psych ward"
    "|been hospitalized|feel so alone|feel empty|feel numb|feel dead inside|hate myself"
    "|hates herself|hates himself|hate my body|hate who i am|hate my life|don 't feel anything"
    "|lost the will|drink too much|drinks too much|drinking every|drinks every|drink every"
    "|drinking heavily|drink to|get drunk|gets drunk|comes home drunk|blackout drunk"
    "|going through menopause|trying to conceive|had an abortion|have an abortion"
    "|getting an abortion|had a miscarriage|missed my period|lost the baby|breaking down"
    "|break down crying|losing my mind|have no feelings|feel like a failure|feeling like a failure"
    "|feel like i 'm nothing|shaking uncontrollably",
    "z": "jumping in front of|jump in front of|jumping off|if i were gone|if i was gone"
    "|if i were dead|burning her arms|cutting her arms|cutting his arms|thinking about dying"
    "|think about dying|thought about dying|thinking of dying|kill myself|killing myself"
    "|killed myself|kill himself|kill herself|killed himself|killed herself|killing himself"
    "|killing herself|end my life|ending my life|ended his life|ended her life|end it all"
    "|ending it all|take my own life|taking my own life|took his own life|took her own life"
    "|take my life|taking my life|commit suicide|committed suicide|committing suicide"
    "|attempted suicide|suicide attempt|attempt suicide|contemplated suicide|considering suicide"
    "|suicidal|thoughts of suicide|thought of suicide|thought about suicide|thinking about suicide"
    "|think about suicide|thinking of suicide|hurt myself|hurting myself|harm myself"
    "|harming myself|cut myself|cutting myself|cutting herself|cutting himself|cuts herself"
    "|cuts himself|burn myself|burning myself|self harm|self harming|self harmed|want to die"
    "|wants to die|wanted to die|wanting to die|wish i was dead|wish i were dead|wish i could die"
    "|wished i was dead|better off dead|better off without me|wanting to be alive|want to be alive"
    "|want to live anymore|want to live any more|wanting to live|want to be here anymore"
    "|want to exist|reason to live|reason to go on|go on living|keep living|not wake up"
    "|never wake up|wouldn 't wake up|won 't wake up|don 't wake up|thoughts of death"
    "|thoughts of dying|jump off a bridge|suicide note|slit my wrists|od ed|harming herself"
    "|harming himself|disappear forever|tired of living|tired of being alive|ready to die",
    "u": "cocaine|coke|crack|heroin|meth|methamphetamine|crystal meth|weed|marijuana|cannabis|pot"
    "|ecstasy|mdma|molly|lsd|acid|shrooms|ketamine|fentanyl|opioids|pills|drugs|alcohol"
    "|amphetamines|speed|pcp|ghb|spice|booze|opium|crystal|hard drugs|street drugs|tobacco"
    "|pain pills|benzos",
    "%": "allergic to",
    "~": "sad|lonely|alone|overwhelmed|heartbroken|insecure|scared|afraid|terrified|stressed"
    "|miserable|ashamed|guilty|unhappy|unlovable|empty|numb|lost and|angry all the time|so angry"
    "|devastated|grieving|jealous|a failure|disgusted|trapped|helpless|desperate|emotional|moody"
    "|unmotivated|suffocated|hurt|betrayed|rejected|inadequate|exhausted",
    # Violence.
    "v": "calls me names|throws things at|yells at|screams at|hits|hit|hitting|beats|beat|beating"
    "|beaten|raped|rapes|raping|molested|molests|molesting|abused|abuses|abusing|assaulted"
    "|assaults|choked|chokes|choking|strangled|strangles|punched|punches|slapped|slaps|slapping"
    "|kicked|kicks|threatened|threatens|threatening|stalked|stalks|stalking|groped|gropes|harassed"
    "|harasses|harassing|attacked|attacks|bullied|bullies|bullying|controls|tortured|trafficked"
    "|shoved|shoves|pushes|pushed|grabbed|hurts|forces|forced|drugged|mistreated|neglected|spanked"
    "|whipped|stabbed|kidnapped|catfished|blackmailed|blackmails|gaslights|gaslighting"
    "|touched inappropriately|sexually abused|sexually assaulted|physically abused"
    "|emotionally abused|verbally abused|verbally abuses|emotionally abuses|touches|touch|touched",
    "w": "abuse|abused|child abuse|sexual abuse|physical abuse|emotional abuse|verbal abuse|rape"
    "|assault|sexual assault|domestic violence|violence|trauma|childhood trauma|molestation"
    "|harassment|sexual harassment|incest|restraining order|abusive relationship|abusive marriage"
    "|abusive home|abusive childhood|abusive|abuser|rapist|stalker|violent|physically violent"
    "|verbally abusive|emotionally abusive|physically abusive|bullying|human trafficking"
    "|narcissistic abuse",
    # Faith, politics, orientation, origin.
    "f": "muslim|jewish|jew|hindu|sikh|buddhist|christian|catholic|protestant|evangelical|baptist"
    "|methodist|lutheran|mormon|atheist|agnostic|jehovah's witness|jehovah 's witness"
    "|scientologist|jehovah's witnesses|quaker|pagan|wiccan|shia|sunni|zoroastrian|jain"
    "|orthodox jew|pentecostal|presbyterian|adventist|greek orthodox|russian orthodox"
    "|eastern orthodox|born again|religious|devout|muslims|jews|hindus|christians|catholics"
    "|atheists|anglican|episcopalian|amish|satanist|spiritualist|ex muslim|ex mormon|orthodox",
    "F": "church|mosque|synagogue|temple|imam|pastor|priest|rabbi|parish|baptism"
    "|bar mitzvah|bible study|confirmation class|congregation|god|allah|prayers"
    "|hajj",
    "X": "converted to|convert to|converting to|conversion to|left|joined|believe in|believes in"
    "|pray to|prays to|attend|attends|attended|go to|goes to|going to|went to|pray at|worship at"
    "|lost my faith in|raised in",
    "O": "islam|judaism|christianity|hinduism|buddhism|catholicism|mormonism|sikhism|wicca"
    "|scientology",
    "p": "democrat|republican|socialist|communist|conservative|liberal|libertarian|anarchist"
    "|marxist|fascist|tory|monarchist|feminist|trump supporter|maga|leftist|left wing|right wing"
    "|far right|far left|democrats|republicans|conservatives|progressive|social democrat"
    "|green party|labour voter|labor voter|nationalist|neo nazi|centrist|environmental activist"
    "|antifa",
    "P": "vote for|votes for|voted for|voting for|voted against|campaigned for|campaign for"
    "|canvassed for|donated to|member of|members of|supporter of|belong to|belongs to|joined"
    "|card carrying member of|vote|votes|voted|volunteer for|volunteered for",
    "G": "far right party|far left party|party|parties|democrats|republicans|conservatives|labour"
    "|greens|afd|spd|cdu|trump|biden|obama|clinton|sanders|harris|brexit|tories|lib dems|movement"
    "|podemos|vox|lega|macron|le pen|snp|ukip",
    "U": "union|trade union|labor union|labour union|shop steward|union rep|teamsters"
    "|union organizer|union steward|unison",
    "g": "gay|lesbian|bisexual|bi|queer|pansexual|asexual|homosexual|heterosexual|transgender"
    "|trans|nonbinary|non binary|intersex|polyamorous|closeted|straight|a virgin|virgin"
    "|transsexual|genderfluid|bicurious|bi curious|demisexual|gender fluid|attracted to men"
    "|attracted to women|attracted to girls|attracted to boys|attracted to guys"
    "|attracted to other men|attracted to other women|lgbt|lgbtq|in love with another woman"
    "|in love with another man|a crossdresser|a cross dresser|transitioning|into men|into women"
    "|same sex attracted|a sex worker|an escort|a prostitute|gay or straight",
    "S": "sexuality|sexual orientation|gender identity|sex life|affair|affairs|fetish|fetishes|sex"
    "|orgasm|orgasms|masturbation|masturbate|masturbates|masturbating|porn|pornography|virginity"
    "|intercourse|intimacy|intimate|one night stand|threesome|sexual desire|sexual desires"
    "|sexual fantasies|kink|std test|prostitutes|escorts|sexting|nudes|birth gender|wrong body"
    "|wrong gender|libido|preferred pronouns|deadname|top surgery|an open marriage"
    "|open relationship|unfaithful|infidelity",
    "C": "came out|come out|coming out|cheated on|cheating on|cheats on|cheat on|slept with"
    "|sleeping with|sleeps with|sleep with|having sex|have sex|had sex|sex with|making love"
    "|make love|sexually attracted|sexually active|crossdress|cross dress|born in the wrong body"
    "|feel like a girl|feel like a boy|feel like a woman|feel like a man|turn me on|turned on"
    "|aroused|transition to|be a girl|be a boy|watching porn|watches porn|watch porn|cheated"
    "|cheating|having an affair|had an affair",
    "o": "african american|black|white|hispanic|latino|latina|latinx|asian|arab|kurdish|roma"
    "|romani|uyghur|native american|indigenous|aboriginal|maori|māori|inuit|mixed race|biracial"
    "|cherokee|navajo|an immigrant|an illegal immigrant|illegal immigrant|illegal alien"
    "|asylum seeker|an asylum seeker|a refugee|refugee|deported|in deportation|american|mexican"
    "|german|french|italian|spanish|polish|russian|ukrainian|turkish|greek|irish|british|english"
    "|scottish|chinese|japanese|korean|vietnamese|thai|filipino|indian|pakistani|bangladeshi"
    "|iranian|iraqi|syrian|afghan|lebanese|egyptian|moroccan|algerian|tunisian|nigerian|ghanaian"
    "|kenyan|ethiopian|somali|eritrean|sudanese|brazilian|colombian|venezuelan|argentinian|chilean"
    "|peruvian|cuban|haitian|jamaican|portuguese|dutch|belgian|swiss|austrian|swedish|norwegian"
    "|danish|finnish|hungarian|romanian|bulgarian|serbian|croatian|bosnian|albanian|israeli"
    "|palestinian|canadian|australian|stateless|on a dreamer visa|a daca recipient|daca recipient",
    "e": "without papers|student visa|visa expired|undocumented|in the country illegally"
    "|here illegally|overstayed|my visa|my visa expired|my green card|my papers|immigration papers"
    "|legal papers|legal status|immigration status|work permit|asylum|deportation|ice agents"
    "|expired visa|a visa",
    # Crime.
    "j": "in state prison|in federal prison|years in prison|years in jail|arrested|convicted"
    "|imprisoned|incarcerated|indicted|sentenced|jailed|on parole|on probation|on bail|in prison"
    "|in jail|charged with|found guilty|a felon|felon|a sex offender|sex offender|locked up"
    "|behind bars|on house arrest|under house arrest|a convicted felon|put in jail|in juvie"
    "|served time|serving time|did time|went to jail|went to prison|going to jail|going to prison"
    "|go to jail|sent to jail|sent to prison|in handcuffs|caught stealing|caught shoplifting"
    "|wanted by the police|released from prison|out of prison|out of jail|in custody"
    "|pleaded guilty|pled guilty|in a gang|got a dui|had a dui|facing charges|busted",
    "q": "criminal record|conviction|convictions|arrest|prison sentence|jail time|jail sentence"
    "|dui|dwi|felony|misdemeanor|parole officer|probation officer|arrest warrant|warrant|rap sheet"
    "|probation|parole|court date|criminal charges|prior convictions|mugshot|public defender",
    "t": "shoplift|shoplifted|shoplifting|embezzled|embezzling|stole from|stole money|steal from"
    "|stealing from|steals from|stole a car|sell drugs|sold drugs|selling drugs|deal drugs"
    "|dealt drugs|dealing drugs|drove drunk|drive drunk|driving drunk|robbed a|robbed someone"
    "|robbed an|evaded taxes|evading taxes|launder money|laundered money|set fire to|killed a man"
    "|killed a woman|killed someone|stabbed someone|shot someone|beat someone up|burglarized"
    "|forged|committed fraud|commit fraud|committed a crime|cheated on my taxes|broke into"
    "|hit and run|steal stuff|stealing things|got into fights with police",
    # Ages.
    "a": "year old|years old|yr old|yo|y o|year olds|month old|months old|weeks old|week old"
    "|years of age",
    "n": "age of|aged|at age|age",
    "L": "birthday|old",
    "&": "and|or|with|so",
    "J": "for|in|on|around|under|near|inside|to|behind|of|from|down|with",
}
"""Sign of a part to the words that play it, in lower case; shortened words stand apart."""
