r"""The words beside an amount (a number, a date, a duration; \x00 here), and whether they leave it as it is.

A word that touches the amount has to be known: in front a verb, a preposition or the name of something measured, behind
a unit or a word that goes on to a remark. So a word of any language that turns, scales or bounds the amount is refused
without being listed. Words further off are refused where a list knows that they take back, turn, scale or bound.

Left out: any understanding of a remark. A word that is in no list and stands apart changes nothing.
"""

from __future__ import annotations

import re

from reward_server.verifiers.carriers import NUMBER_WORDS

# Words that take an amount back, turn it, scale it or bound it, wherever in an answer they stand.
_DENYING_TEXT = """
hardly scarcely barely barring barred besides save mistake mistakes mistaken mistakenly error errors erroneous
erroneously miscalculated miscalculation miscounted inaccurate inaccurately nonsense nonsensical lie lies lying
refuted refute refutes disproved disproven dismissed discarded discard omitted omit removed remove deleted delete
struck crossed cancelled canceled cancel revoked retracted retract rescinded withdrawn withdraw void voided null
nullified overturned invalidated disregard disregarded disregarding ignore ignored forget forgotten scrap scrapped
fake faked pseudo bogus fails failed nope nah nay aint isnt arent wasnt werent cant dont doesnt didnt wont wouldnt
shouldnt couldnt hasnt havent hadnt mustnt ain't improbable implausible implausibly dubious doubtful doubt doubts
doubted questionable sic lol lmao haha jk kidding joking joke jokingly ironic ironically irony sarcasm sarcastic
sarcastically misread misreported misstated stated mis ex anti pretend pretending whether unless suppose supposing
rubbish untenable disputed typo typos garbage hallucinated hallucination invented guesswork scratch bounded
hypothetically previously formerly uncorrected bad absurd ridiculous meaningless opposite contrary reverse reversed
reversing inverted invert mirrored mirror flipped flip complement negated negate negates negation negating tops capped
cap ceiling floor threshold cutoff cutoffs upto soonest earliest deadline latest etc ff seq alii zero's zeros zeroes
decades decade magnitude thereabouts moins menos meno minder minus weniger mehr mas mais piu nicht kein keine keinen
keiner nie niemals nein ohne pas jamais sans aucun sauf nunca sino salvo ninguno nada nem sem nao niet geen nooit ikke
inte aldrig nej uden utan hasta jusque oltre almeno menos mindestens ueber unter oder ou eller bis ab halb halbe
halber halben haelfte demi moitie mitad mezzo mezza metade doppelt doppio duplo dreifach zweifach zehnfach mila milion
millon millones miljoen miljoner milyon milhoes milhao juta ribu hundert tausend tusen tusind duizend cien cientos
ciento dutzend docena douzaine negativ negativo negativa negatif negatief bukan tidak kurang lebih
"""
_DENYING = frozenset(_DENYING_TEXT.split())
# Words that also make a part of the amount or another one; the working before an amount may hold them.
_CHANGING_TEXT = """
subtract subtracted subtracting subtraction deduct deducted deducting deduction lost lose loses losing missing unmet
fewer apiece each another extra additional bonus leftover rescheduled bid tid qid qds tds qhs qod prn
"""
CHANGING = _DENYING.union(_CHANGING_TEXT.split())
# The same in several words, and in words that have another sense elsewhere ("base excess", "cut-off").
_DENYING_PHRASE = re.compile(
    r"\b(?:all|any|anything|everything|anywhere|nowhere)\b[^.;,\n]{0,20}\b(?:but|near)\b|\bfar from\b"
    r"|\b(?:apart|aside) from\b|\b(?:north|south|shy|short|ahead|excess|reciprocal|inverse|loss|half|quarter) of\b"
    r"|\b(?:de|in)creas(?:e|es|ing) (?:of|by)\b|\(\s?(?:de|in)crease\s?\)|\b(?:reduc|rais|low|high)(?:e|er|es)? by\b"
    r"|\b(?:left|carried) over\b|\bin the red\b|\bcut-?\s?offs?\b|\bat (?:the )?(?:best|worst|soonest"
    r"|earliest|latest)\b"
    r"|(?<!rounded )(?<!rounding )\boff\b|\bout of\s?(?:\0|$)|\bmulti(?:ple|plied)\b|\b(?:sign|minus) (?:flip|change)"
    r"|\b(?:possibly|likely|probably|perhaps|maybe|even|slightly|somewhat|much|far|a (?:bit|little|lot))"
    r" (?:higher|lower|more|less|greater|smaller|larger|above|below|under|over|later|earlier)\b"
    r"|\b(?:and|but) (?:still )?(?:climb|ris|fall|grow|increas|decreas|improv|worsen)ing\b"
    r"|\b(?:less|more|greater|higher|lower|smaller|larger) than (?:it|that|this|the (?:answer|result"
    r"|truth|real|true))\b"
    r"|\bto the (?:[a-z]{2,9}th|third|second|square|cube)\b|\band (?:a bit|a little|change|then some|some"
    r"|counting|beyond|others?|following|so on|so forth|up|down)\b"
    r"|\bq\s?(?:(?:[0-9]{1,2}|\0)\s?)?(?:h|hrs?|hours?|d|day|week|am|pm)\b"
    r"|\bet (?:al|seq)\b|\b[^\W\d_]{2,}(?:fold|folds|illions?|illionths?|illiards?)\b|\border of\b|\borders of\b"
    r"|\b(?:normal|reference|usual|typical)(?: (?:value|level|limit|one|result))?(?:\sis|\s?[:=])\s?\0"
    r"|\b(?:option|question|choice|number|nr|step|stage|class|grade|type|category|phase|divided? by"
    r"|multipl(?:y|ied) by)"
    r"\.?\s\0|\bof[\s.)]*$|^of\s\0|\b(?:moved|pushed|brought|put) (?:to|back|forward|up|off)\b|\b(?:fail"
    r"|void|null)\b[\s.!)]*$|^\W*(?:min|bar|ex)\s",
    re.IGNORECASE,
)
# What may stand in front of an amount with nothing but space between: verbs and prepositions.
_LEADING_TEXT = """
currently now
is are was were be been being equals equal equalled of at to about approximately approx roughly around circa ca nearly
almost exactly precisely give gives gave given giving yield yields yielded get gets got getting obtain obtained
requires require required as becomes become remains so thus hence therefore then ans answer result results value total
totals totalled sum overall only just calculated computed estimated it this that has have had with scores scored
choose say on final by needs need name unit simply still roughly corrected adjusted i'd it's that's what's e.g i.e ie
or and conclude average mean c est nbsp score scores points point index ratio risk gap rate level levels pressure
weight height age dose dosage volume deficit deficiency excess clearance output input time interval area mass body bmi
surface scale count criteria criterion number calcium sodium potassium chloride glucose albumin urea nitrogen bun ag
anion delta osmolality osmolarity cholesterol triglycerides hemoglobin haemoglobin hematocrit haematocrit platelets
platelet wbc oxygen saturation content difference gradient fraction percentage percent probability likelihood
mortality survival chance estimate prediction equivalent equivalents requirement requirements infusion fluid fluids
maintenance flow resistance power work load stroke cardiac pulse temperature bicarbonate lactate ph gfr egfr bsa map
qtc ibw abw lbm meld fena fib fib-4 gcs sofa curb heart wells centor perc psi apache timi grace caprini framingham ldl
hdl vldl homa homa-ir tibc inr hba1c urine serum plasma blood bolus duration length width distance size target ideal
adjusted lean steroid mme insulin crcl na ca k cl mg hco3 tv rsbi mon tue tues wed thu thur thurs fri sat sun monday
tuesday wednesday thursday friday saturday sunday elapsed because since rule lmp's dated due date edd edc eda delivery
confinement conception lmp ga ega gestation gestational pregnancy pregnant fetus foetus
"""
_LEADING = frozenset(_LEADING_TEXT.split())
_NOUN = re.compile(
    r"[a-z]{2,}(?:ium|ate|ose|ine|ity|ance|ence|tion|sion|ure|gen|mia|uria|rol|ide|phil|phils|cyte|cytes)"
)
_ROMAN = re.compile(r"[IVXLC]+")
# Units, and the words with which a remark may begin without punctuation.
_FOLLOWING_TEXT = """
g gm gms kg kgs mg mgs mcg ug ng pg fg gram grams kilogram kilograms kilo milligram milligrams microgram micrograms
nanograms nanogram picograms l dl ml cc fl ul nl liter liters litre litres deciliter deciliters milliliter milliliters
millilitre millilitres microliter microliters mol mole moles mmol mmols umol nmol pmol millimole millimoles micromole
micromoles nanomoles meq eq milliequivalent milliequivalents equivalents mosm mosmol osm osmol milliosmoles osmoles iu
miu uiu u mu unit units m cm mm um nm km inch inches in ft foot feet lb lbs pound pounds ounce ounces oz stone sq
square meter meters metre metres centimeter centimeters centimetre centimetres millimeter millimeters millimetre
millimetres s sec secs second seconds ms msec msecs millisecond milliseconds min mins minute minutes h hr hrs hour
hours d day days wk wks week weeks mo mos month months y yr yrs year years yo year-old pack pack-years patient-years
person-years j kj kcal cal kcals calories kilocalories joules w watts watt v mv hz khz mhz n pa kpa mmhg hg cmh torr
bar atm millimeters dyn dyne dynes wood wu met mets f k c celsius fahrenheit kelvin deg degree degrees db bpm beats
breaths cells cell copies plt events cigarettes drinks tablet tablets tab tabs capsule capsules vial vials drop drops
gtt gtts puffs dose doses ampules bags mme mmes ome oral percent pct point points pt pts score scores criteria
criterion sirs name items item out risk probability mortality chance per of for in on at by with from to as is was are
were which that and but because since so thus hence therefore when if using based according given calculated computed
corrected rounded approximately approx about exactly overall total totals today annual annually yearly daily weekly
hourly dated indicating indicates suggesting suggests suggestive meaning means consistent corresponding classified
considered making putting should would can the this it he she they we i after via through during while where according
unitless dimensionless here final answer result value meets being has have had requires needs not no without or
prednisone prednisolone dexamethasone hydrocortisone methylprednisolone cortisone betamethasone triamcinolone morphine
oxycodone hydrocodone hydromorphone fentanyl insulin sodium potassium albumin creatinine water urea oxygen glucose
urine serum plasma blood body weight equivalent intravenous iv po orally im subcutaneously
"""
_FOLLOWING = frozenset(_FOLLOWING_TEXT.split())
# Of the words behind an amount and its units, up to the verb of a remark, those that measure it from something else.
_MEASURED_FROM_TEXT = """
more less higher lower greater smaller larger fewer above below under over short off away lost added less up down
beyond later earlier sooner early late older younger ago old premature missing apart worse better else something
"""
_MEASURED_FROM = frozenset(_MEASURED_FROM_TEXT.split())
_REMARK_TEXT = "is was are were which that and because since so indicating suggesting using based with"
_REMARK = frozenset(_REMARK_TEXT.split())
# All that may stand behind a date or a gestational age.
_OBSTETRIC_TEXT = """
a an the this that these it its is are was be been has have had of for in on at by with from as so thus and or
according based using via calculated computed estimated estimate approximately approx about exactly rounded given
assuming since because which i.e while under final answer result correct right she her he his patient patient's woman
mother mother's baby baby's infant fetus fetal fetus's child mrs ms our my we i naegele naegele's nagele nagele's
naegel naegel's rule method formula calculator calculation wheel ultrasound scan sonography sonographic first second
third trimester crown rump length lmp lnmp menstrual menses period last normal regular cycle cycles adjusted
adjustment standard average typical due date dates dated dating edd edc eda edb eddc ga ega gestation gestational
gestation's gestations pregnancy pregnant pregnancy's age weeks completed complete full total elapsed passed passes
present current currently today today's presentation visit time now along day i wednesday mm dd yyyy yy format iso us
american equal equals equivalent same namely fits fit meaning means corresponding corresponds expected predicted
intrauterine single live uterine size fundal height monday tuesday thursday friday saturday sunday mon tue tues wed
thu thur thurs fri sat sun january february march april may june july august september october november december jan
feb mar apr jun jul aug sep sept oct nov dec
"""
_OBSTETRIC = frozenset(_OBSTETRIC_TEXT.split())
_WORDS = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_IN_FRONT = re.compile(r"(?:([^\W\d_]{3,})\s)?(?<![\w'-])([^\W\d_][\w'-]*)$")
_BEHIND = re.compile(r"\0[\s-]?['\"]?([^\W\d_](?:[\w'-]*[^\W_])?)")
_CALLED = re.compile(
    r"\0[^.,;:()\n\0]{0,40}?\b(?:is|was) (?:(?:an?|the|my|our|your|his|her|their|very|most|clearly"
    r"|slightly|mildly|well) ){0,2}"
    r"([^\W\d_][\w'-]*)",
    re.IGNORECASE,
)
_CALLED_WELL_TEXT = """
correct right true best final answer result value patient patient's required needed recommended expected estimated
obtained calculated computed consistent in within high higher low normal elevated raised increased decreased reduced
abnormal prolonged mild moderate severe significant positive upper lower diagnostic suggestive indicative concerning
critical desirable optimal borderline acceptable appropriate calculated corrected adjusted closest nearest likely
obese overweight underweight also therefore thus what how here there due because one from by rounded used reported
mildly moderately severely markedly significantly below above at greater less consistent compatible typical
"""
_CALLED_WELL = frozenset(_CALLED_WELL_TEXT.split())
_CLAUSE = re.compile(r"\0([^.,;:!?()\n\0]*)")
# Letters of units and of the names of differences and gaps; others belong to words of other languages.
_GREEK = frozenset("\u03bc\u00b5\u03a9\u0394\u03b1\u03b2\u03b3\u03b4\u212b\u00c5")


def _foreign_letter(text: str) -> bool:
    """Whether `text` holds a letter that is neither ASCII nor the sign of a unit or a difference."""
    return not text.isascii() and any(
        character.isalpha() and not character.isascii() and character not in _GREEK for character in text
    )


def denies(text: str, words: frozenset[str] = _DENYING) -> bool:
    r"""Whether one of `words` or a phrase in `text` takes the amounts in it (\x00) back, turns, scales or bounds."""
    denied = not words.isdisjoint(_WORDS.findall(text.lower())) or _DENYING_PHRASE.search(text)
    return bool(denied) or _foreign_letter(text)


def changes(between: str, *, obstetric: bool = False) -> bool:
    r"""Whether a word of `between` makes another amount of \x00 or none, or touches it and is none that is known.

    Behind a due date or a gestational age (`obstetric`) every word has to be known.
    """
    if denies(between, CHANGING):
        return True
    if not all(map(_may_lead, between.split("\0")[:-1])):
        return True
    if obstetric:
        return not _OBSTETRIC.issuperset(_WORDS.findall(between.partition("\0")[2].lower()))
    if not all(_may_follow(found[1]) for found in _BEHIND.finditer(between)):
        return True
    if not all(_may_be_called(found[1]) for found in _CALLED.finditer(between)):
        return True
    return any(_is_measured_from(found[1]) for found in _CLAUSE.finditer(between))


def _may_lead(text: str) -> bool:
    """Whether the word that ends `text` is a known one or an acronym ("QTc"), and no numeral ("II")."""
    found = _IN_FRONT.search(text[-60:].rstrip(" \n([\"'$\u20ac\u00a3~\u2248"))
    if found is None:
        return True
    before, word = found[1] or "", found[2]
    lower = word.lower()
    if {lower, lower.rpartition("-")[2]} & _LEADING or lower in NUMBER_WORDS or _NOUN.fullmatch(lower):
        return True
    if _ROMAN.fullmatch(word):
        return before.isupper()
    return any(character.isupper() for character in word[1:])


def _may_follow(word: str) -> bool:
    lower = word.lower().lstrip("\u03bc\u00b5\u03a9")
    return lower in _FOLLOWING or (word.isupper() and lower in _LEADING)


def _may_be_called(word: str) -> bool:
    """Whether an amount that is called `word` ("5.2 is high") stays what it is."""
    return word.lower() in _CALLED_WELL or _may_lead(word)


def _is_measured_from(clause: str) -> bool:
    for word in _WORDS.findall(clause.lower()):
        if word in _REMARK:
            return False
        if word in _MEASURED_FROM:
            return True
    return False
