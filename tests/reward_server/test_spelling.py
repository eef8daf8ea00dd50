"""Misspellings of an option are read as that option; other terms a letter or two away never are."""

from __future__ import annotations

import time
from importlib import resources

import pytest

from reward_server.verifiers import choice
from reward_server.verifiers.spelling import misspelt, opposite

# Each pair is tried both ways.
CONFUSABLE = """
nifedipine/nimodipine cefepime/cefixime cytosine/cytidine cysteine/cystine dysphonia/dysphoria dysplasia/dysphasia
menorrhagia/metrorrhagia colonoscopy/colposcopy cycloserine/cyclosporine mycosis/myosis arteritis/arthritis
myelitis/myositis neuritis/nephritis ureteral/urethral hemophilia/hemophobia insulin/inulin prolactin/prolamin
streptomycin/streptozocin gastroscopy/gastrostomy medial/median lateral/literal recessive/regressive
translation/translocation deletion/depletion inversion/insertion chondroma/chordoma fibrosis/fibromas necrosis/neurosis
lumbar/lumber temporal/temporary bronchial/brachial branchial/brachial maxillary/mamillary pupillary/papillary
vascular/valvular arterial/arteriole vasopressin/vasopressor gastrin/gastric oxytocin/oxytocic penetrance/penetrant
amlodipine/felodipine diazepam/oxazepam lorazepam/clonazepam fluoxetine/duloxetine dapoxetine/paroxetine
citalopram/escitalopram omeprazole/esomeprazole lansoprazole/pantoprazole prazosin/terazosin lovastatin/fluvastatin
pravastatin/pitavastatin lisinopril/fosinopril enalapril/enalaprilat rituximab/cetuximab infliximab/siltuximab
erlotinib/nilotinib lapatinib/dasatinib gefitinib/ceritinib bleomycin/neomycin lincomycin/vancomycin mitomycin/viomycin
aciclovir/ganciclovir valaciclovir/valganciclovir mebendazole/albendazole miconazole/econazole
fluconazole/sulconazole voriconazole/oxiconazole ketamine/esketamine rocuronium/vecuronium sitagliptin/saxagliptin
dapagliflozin/canagliflozin meloxicam/tenoxicam ketoprofen/fenoprofen oxacillin/cloxacillin amoxicillin/ampicillin
ofloxacin/pefloxacin isoniazid/iproniazid amantadine/rimantadine meropenem/faropenem sufentanil/alfentanil
bupivacaine/ropivacaine prilocaine/procaine encainide/tocainide finasteride/dutasteride nandrolone/oxandrolone
pioglitazone/troglitazone budesonide/desonide penicillamine/penicillin clozapine/loxapine desflurane/enflurane
perineal/peroneal peroneal/peritoneal perineal/perianal perinatal/prenatal mucous/mucosa aphagia/aphasia aphasia/aphakia
thymine/thiamine tyrosine/threonine adenine/adenosine guanine/guanidine creatine/creatinine glycogen/glucagon
lactate/lactase maltose/maltase ribosome/liposome lysosome/liposome abduction/adduction affect/effect afferent/efferent
anterior/interior superior/inferior interior/inferior internal/external atrium/antrum basilar/basilic callous/callus
cardiac/celiac choroid/chorion cirrhosis/sclerosis scoliosis/sclerosis cystotomy/cystostomy colotomy/colostomy
gastrotomy/gastrostomy conduction/convection contusion/concussion diastolic/systolic diffusion/infusion
dysphagia/dysphasia dysarthria/dysphoria embolus/embolism endemic/epidemic enteral/enteric ectropion/entropion
eversion/inversion excision/incision neutropenia/neutrophilia fissure/fistula flexion/flexor fundus/fungus
genital/gonadal gravida/gravid hemostasis/homeostasis hematology/hepatology incontinence/continence infarction/infection
infection/injection intima/intimal keratosis/ketosis labile/labial laryngeal/pharyngeal laryngitis/pharyngitis
malleus/malleolus mastitis/mastoiditis meiosis/mitosis miosis/mitosis melanin/melatonin morbidity/mobility
mortality/motility myeloma/myxoma neuron/nephron nephrotic/nephritic nodule/nodular palmar/plantar palpation/palpitation
papule/pustule patient/patent paternal/maternal peptide/peptic plasmid/plasmin pleural/plural prostate/prostrate
psoriasis/psoriatic radial/radical reflex/reflux retinal/retinol rubella/rubeola secretion/excretion scabies/rabies
stricture/structure striatum/stratum suppression/depression stenosis/stasis testis/tests
tracheotomy/tracheostomy transcription/transduction tropical/topical typhoid/typhus valgus/varus venous/villous
vesical/vesicle humeral/humoral causal/casual distal/dorsal ligase/lyase dementia/dermatitis chronic/clonic
osteopenia/osteopetrosis trapezium/trapezius section/suction contagious/contiguous
"""
SAME = """
anemia/anaemia edema/oedema esophagitis/oesophagitis hemorrhage/haemorrhage diarrhea/diarrhoea tumor/tumour
fiber/fibre sulfasalazine/sulphasalazine catheterization/catheterisation leukocyte/leucocyte estradiol/oestradiol
diagnosis/diagnoses metaphysis/metaphyses biopsy/biopsies bronchus/bronchi mitochondrion/mitochondria
infection/infections rickettsia/rickettsiae cyclosporine/ciclosporin acyclovir/aciclovir lidocaine/lignocaine
furosemide/frusemide rifampin/rifampicin indomethacin/indometacin tendinitis/tendonitis cesarean/caesarean
increased/increasing fecal/faecal
anatomic/anatomical artifact/artefact mold/mould gray/grey gonadotropin/gonadotrophin
"""
TYPED = """
amoxicillin metoprolol atorvastatin clopidogrel levothyroxine metformin lisinopril amlodipine nifedipine omeprazole
warfarin heparin digoxin furosemide spironolactone prednisone dexamethasone vancomycin ceftriaxone ciprofloxacin
azithromycin doxycycline fluconazole acyclovir isoniazid methotrexate cyclophosphamide doxorubicin vincristine
rituximab infliximab haloperidol clozapine lithium sertraline fluoxetine diazepam phenytoin carbamazepine valproate
morphine naloxone propofol ketamine atropine epinephrine insulin glipizide allopurinol colchicine
pneumonia hypertension diabetes sarcoidosis tuberculosis schizophrenia appendicitis pancreatitis cholecystitis
meningitis encephalitis endocarditis pericarditis osteomyelitis osteoporosis arthritis psoriasis melanoma lymphoma
leukemia thrombocytopenia hemophilia thalassemia hyperthyroidism hypothyroidism acromegaly pheochromocytoma
glomerulonephritis pyelonephritis nephrolithiasis cirrhosis hepatitis gastritis diverticulitis intussusception
bronchiectasis emphysema asthma epilepsy migraine parkinsonism myasthenia dementia delirium glaucoma cataract
conjunctivitis preeclampsia endometriosis chlamydia gonorrhea syphilis toxoplasmosis malaria leishmaniasis
"""


def pairs(words: str) -> list[tuple[str, str]]:
    both = [tuple(pair.split("/")) for pair in words.split()]
    return [pair for one, two in both if one != two for pair in ((one, two), (two, one))]


def typos(word: str) -> list[str]:
    """A letter dropped, doubled, exchanged with the next and replaced: each inside the word."""
    middle = len(word) // 2
    return [
        word[:middle] + word[middle + 1 :],
        word[: middle + 1] + word[middle:],
        word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :],
        word[: middle - 1] + "q" + word[middle:],
    ]


def paid(said: str, option: str) -> bool:
    options = {"A": option.capitalize(), "B": "Rest and ice", "C": "Observation"}
    return choice.verify(f"A. {said}", "A", options).status == "correct"


def test_another_term_is_no_misspelling() -> None:
    assert len(pairs(CONFUSABLE)) > 2 * 150
    assert [pair for pair in pairs(CONFUSABLE) if paid(*pair)] == []


def test_spellings_and_forms_of_one_term_are_the_same() -> None:
    assert [pair for pair in pairs(SAME) if misspelt(*pair) != 0 or not paid(*pair)] == []


def test_typos_of_any_letter_are_that_term() -> None:
    tried = [(typo, word) for word in TYPED.split() for typo in typos(word) if typo != word]
    assert len(tried) > 350
    assert [pair for pair in tried if not paid(*pair)] == []


@pytest.mark.parametrize(
    ("said", "option", "right"),
    [
        ("hyprtension", "hypertension", True),
        ("hypotension", "hypertension", False),
        ("asymtomatic", "symptomatic", False),
        ("nifedipin", "nifedipine", True),
        ("syphilis", "syphillis", True),
        ("acute haemorrhagic anaemia with oedema", "acute hemorrhagic anemia with edema", True),
        ("ureteral calculus", "urethral calculus", False),
        ("ovulation of the cervix", "ovulations of the cervix", True),
        ("typhi", "typhus", False),
        ("ammonium", "ammonia", False),
    ],
)
def test_parts_of_words(said: str, option: str, right: bool) -> None:
    assert paid(said, option) is right
    assert opposite(said, option) is not right or misspelt(said, option) is None


def test_lists_are_terms_once_each() -> None:
    for name, least in (("drugs.txt", 900), ("terms.txt", 500)):
        text = resources.files("reward_server.verifiers").joinpath(name).read_text(encoding="utf-8")
        words = text.split()
        assert len(words) == len(set(words)) >= least
        assert text.splitlines() == sorted(text.splitlines())
        assert all(word.isalpha() and word.islower() for word in words)


def test_a_comparison_takes_microseconds() -> None:
    misspelt("metropolol", "metoprolol")
    start = time.perf_counter()
    for _ in range(1000):
        misspelt("metropolol", "metoprolol")
    assert time.perf_counter() - start < 1
