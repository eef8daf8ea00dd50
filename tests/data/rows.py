"""Rows of the published formats, in the shapes that their authors or re-hosts give them, and what is read of each."""

from __future__ import annotations

from typing import Any

FOUR = {"A": "iron", "B": "zinc", "C": "tin", "D": "lead"}
COLUMNS = {"opa": "iron", "opb": "zinc", "opc": "tin", "opd": "lead"}
LIST = [*FOUR.values()]
LINES = "A. iron\nB. zinc\nC. tin\nD. lead"
MEDMCQA = {"id": "m1", "question": "Which?", **COLUMNS, "subject_name": "Physiology", "choice_type": "single"}
PRO = {"question_id": 7, "question": "Which?", "options": LIST, "category": "health", "answer": "B"}
XPERT = {"id": "Text-1", "question": "Which?", "options": FOUR, "label": "B", "body_system": "Skeletal"}
MEDIQ = {"id": 3, "question": "Which?", "context": ["He is 3.", "He coughs."], "options": FOUR, "answer_idx": "B"}
O1 = {"Question": "Which?", "Complex_CoT": "Hmm, zinc.", "Response": "It is zinc."}
SHORT = {"Open-ended Verifiable Question": "Which metal?", "Ground-True Answer": "zinc"}
REASON = {
    "dataset_name": "medqa",
    "question": "Which?",
    "reasoning": "Paths: zinc.",
    "answer": "Zinc. Explanation: as.",
}
TRACE = {"prompt": f"Which?\n{LINES}", "answer_letter": "B", "answer_string": "zinc", "reasoning": "Hmm."}
WRAPPED = "<Context> He is 3. </Context> <Question> {} </Question>"
U1 = {"Source": "MedIQ", "problem": WRAPPED.format("Which?"), "options": FOUR, "answer": "B"}
U1_CALC = {"Source": "MedCalc-Bench", "problem": WRAPPED.format("How much?")}
EHR = {"note": "Febrile.", "label": "1"}
MORTALITY = {"question": "Died?", "classes": (("0", "no"), ("1", "yes"))}


def _prompt(question: str) -> list[dict[str, str]]:
    ask = " Please provide your text answer within the <answer> </answer> tags. Think for maximum 20 tokens."
    turns = (
        f"<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n{question} {ask}<|im_end|>\n<|im_start|>assistant\n"
    )
    return [{"role": "user", "content": turns}]


def verl(source: str, question: str, answer: str, **reward: Any) -> dict[str, Any]:
    model = {"ground_truth": answer, "num_tokens": -20, "lower_limit": None, "upper_limit": None, **reward}
    return {
        "data_source": source,
        "prompt": _prompt(question),
        "reward_model": model,
        "extra_info": {"index": 0, "split": "train"},
    }


CHOICE = {"task": "choice", "question": "Which?", "options": FOUR, "answer": "B"}
READ: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # Kind, row, options, what the Example has.
    "medmcqa, subject": ("medmcqa", {**MEDMCQA, "cop": 2}, {"first_index": 1}, {**CHOICE, "id": "x/m1"}),
    "medmcqa from 0": ("medmcqa", {**MEDMCQA, "cop": 1}, {"first_index": 0}, CHOICE),
    "medmcqa as pandas": ("medmcqa", {**MEDMCQA, "cop": "1.0"}, {"first_index": 0}, CHOICE),
    "medmcqa letter": ("medmcqa", {**MEDMCQA, "cop": "B"}, {}, CHOICE),
    "mmlu of the hub": (
        "mmlu",
        {"question": "Which?", "subject": "anatomy", "choices": LIST, "answer": 1},
        {},
        {**CHOICE, "meta": {"subject": "anatomy"}},
    ),
    "mmlu of the hub as pandas": (
        "mmlu",
        {"question": "How many?", "subject": "anatomy", "choices": "['1', '2', '3', '4']", "answer": "2"},
        {},
        {"answer": "C", "options": {"A": "1", "B": "2", "C": "3", "D": "4"}},
    ),
    "mmlu-pro of the hub": (
        "mmlu-pro",
        {**PRO, "answer_index": 1, "src": "ori_mmlu-virology"},
        {},
        {**CHOICE, "id": "x/7", "meta": {"subject": "virology", "category": "health"}},
    ),
    "mmlu-pro filled up": ("mmlu-pro", {**PRO, "options": [*LIST, "N/A", "N/A"]}, {}, CHOICE),
    "mmlu-pro by index": ("mmlu-pro", {**PRO, "answer": None, "answer_index": 0}, {}, {**CHOICE, "answer": "A"}),
    "medxpertqa": ("medxpertqa", XPERT, {}, {**CHOICE, "id": "x/Text-1", "meta": {"subject": "Skeletal"}}),
    "medxpertqa twice": (
        "medxpertqa",
        {
            **XPERT,
            "question": "Which?\nAnswer Choices: (A) iron (B) zinc (C) tin (D) lead",
            "options": [{"letter": letter, "content": text} for letter, text in FOUR.items()],
            "label": ["B"],
        },
        {},
        CHOICE,
    ),
    "mediq": ("mediq", MEDIQ, {}, {**CHOICE, "context": "He is 3.\nHe coughs."}),
    "medqa within the text": ("medqa", {"question": f"Which?\n\n{LINES}", "answer": "zinc"}, {}, CHOICE),
    "medqa on one line": (
        "medqa",
        {"question": "Which? (A) iron (B) zinc (C) tin (D) lead", "answer": "B"},
        {},
        CHOICE,
    ),
    "medqa in columns": ("medqa", {"question": "Which?", **FOUR, "answer": "B"}, {}, CHOICE),
    "medical-o1 long": (
        "medical-o1",
        O1,
        {},
        {"task": "text", "answer": "It is zinc.", "meta": {"trace": {"think": "Hmm, zinc.", "answer": "It is zinc."}}},
    ),
    "medical-o1 short": (
        "medical-o1",
        {**O1, **SHORT},
        {},
        {"question": "Which metal?", "answer": "zinc", "meta": {"trace": {"think": "Hmm, zinc.", "answer": "zinc"}}},
    ),
    "medical-o1 both": ("medical-o1", {**O1, **SHORT}, {"answers": "long"}, {"question": "Which?"}),
    "medreason": (
        "medreason",
        {**REASON, "options": f"Answer Choices:\n{LINES}"},
        {},
        {**CHOICE, "meta": {"category": "medqa", "trace": {"think": "Paths: zinc.", "answer": "B"}}},
    ),
    "medreason, a verdict": (
        "medreason",
        {**REASON, "options": "A. yes\nB. no", "answer": "The final decision is: no. Explanation: as."},
        {},
        {"answer": "B"},
    ),
    "medreason, letter and text": ("medreason", {**REASON, "options": LINES, "answer": "B. zinc"}, {}, CHOICE),
    "medreason, open": ("medreason", {**REASON, "options": ""}, {}, {"task": "text", "answer": "Zinc"}),
    "medreason, none": ("medreason", {**REASON, "options": "None"}, {}, {"task": "text", "answer": "Zinc"}),
    "m23k": ("m23k", TRACE, {}, {**CHOICE, "meta": {"trace": {"think": "Hmm.", "answer": "B"}}}),
    "m23k, a list before": (
        "m23k",
        {**TRACE, "reasoning": "<think>\nHmm.\n</think>\n", "prompt": f"A. fumigatus grows.\nWhich?\n{LINES}"},
        {},
        {
            **CHOICE,
            "question": "A. fumigatus grows.\nWhich?",
            "meta": {"trace": {"think": "Hmm.", "answer": "B"}},
        },
    ),
    "medu1 MedIQ": ("medu1", U1, {}, {**CHOICE, "source": "MediQ", "context": "He is 3.", "license": "CC-BY-4.0"}),
    "medu1 MedXpertQA": (
        "medu1",
        {
            "Source": "MedXpertQA",
            "problem": "Which?\nAnswer Choices: (A) iron (B) zinc (C) tin (D) lead",
            "choices": FOUR,
            "answer": "B",
        },
        {},
        {**CHOICE, "license": "MIT"},
    ),
    "medu1, a list that is no options": (
        "medu1",
        {**U1, "problem": "Which of\nA. x\nB. y\nis right?", "options": FOUR},
        {},
        {"question": "Which of\nA. x\nB. y\nis right?", "options": FOUR},
    ),
    "medu1 number": (
        "medu1",
        {**U1_CALC, "answer": "108.0", "Lower Limit": "102.6", "Upper Limit": "113.4"},
        {},
        {"task": "number", "answer": 108.0, "lower": 102.6, "upper": 113.4, "question": "How much?"},
    ),
    "medu1 date": ("medu1", {**U1_CALC, "answer": "3/7/2020"}, {}, {"task": "date", "answer": "03/07/2020"}),
    "medu1 age": (
        "medu1",
        {**U1_CALC, "answer": "('17 weeks', '6 days')"},
        {},
        {"task": "duration", "answer": {"weeks": 17, "days": 6}},
    ),
    "medu1 open": (
        "medu1",
        {
            "Source": "medical-o1-reasoning-SFT",
            "problem": "Which?",
            "think": "<think>\nHmm.\n</think>\n",
            "answer": "<answer>\nZinc.\n</answer>\n",
        },
        {},
        {"task": "text", "answer": "Zinc.", "meta": {"trace": {"think": "Hmm.", "answer": "Zinc."}}},
    ),
    "medu1 parquet, choice": (
        "medu1",
        verl("MedXpertQA", "Which?\nA: iron\nB: zinc\nC: tin\nD: lead", "B"),
        {},
        {**CHOICE, "meta": {"split": "train", "num_tokens": -20}},
    ),
    "medu1 parquet, open": ("medu1", verl("medical-o1-reasoning-SFT", "Which?", "Zinc.\n"), {}, {"answer": "Zinc."}),
    "medu1 parquet, number": (
        "medu1",
        verl("MedCalc-Bench", WRAPPED.format("How much?"), "4", lower_limit="4", upper_limit="4"),
        {},
        {"task": "number", "answer": 4.0, "question": "How much?", "context": "He is 3."},
    ),
    "ehr": ("ehr", EHR, MORTALITY, {"question": "Died?", "context": "Febrile.", "answer": "B", "source": "EHR"}),
    "ehr as pandas": ("ehr", {**EHR, "label": "1.0"}, MORTALITY, {"answer": "B"}),
    "ehr, a column": (
        "ehr",
        {"text": "Febrile.", "dx": "Sepsis", "known": "flu; sepsis", "nr": 9},
        {
            "question": "Which?",
            "note_column": "text",
            "label_column": "dx",
            "classes_column": "known",
            "id_column": "nr",
        },
        {"id": "x/9", "answer": "B", "options": {"A": "flu", "B": "sepsis"}},
    ),
    "mediq as pandas": (
        "mediq",
        {**MEDIQ, "context": "['He is 3.', \"He's ill.\"]"},
        {},
        {**CHOICE, "context": "He is 3.\nHe's ill."},
    ),
    "ehr, a mark of what was taken out": (
        "ehr",
        {**EHR, "note": "[**Name**] ['']"},
        MORTALITY,
        {"context": "[**Name**] ['']"},
    ),
    "examples": (
        "examples",
        {"id": "q1", "source": "s", "task": "choice", "question": "Which?", "options": FOUR, "answer": "B"},
        {},
        {**CHOICE, "id": "x/q1"},
    ),
}
