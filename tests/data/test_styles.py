"""Prompt files: what they come to word by word, what is refused of them, and when two are the same prompt."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conversion.asked import prompt_yaml
from recipes.data.example import Example, Task
from recipes.data.prompts import Form, LengthTarget, base_text, messages
from recipes.data.styles import BUILT_IN, Style, StyleError, read_style

_ENDS = ("", "\n", "\n\n", " ", " \n", "\r\n", "\n  indented", "\t", ": #", "\u2028", "\x85", "no", "12")
YES_NO = {"A": "yes", "B": "no", "C": "maybe"}
CHOICE = Example("c", "s", "choice", "Does it?", "A", context="We did.", options=YES_NO)
BMI = Example("n", "s", "number", "What is the BMI?", 20, lower=19, upper=21, context="180 cm.\n65 kg.")


def _style(folder: Path, text: str, name: str = "own.yaml") -> Style:
    path = folder / name
    path.write_bytes(text.encode())
    return read_style(str(path))


def _user(style: Style, example: Example, length: LengthTarget | None = None) -> str:
    return messages(example, Form(style, length))[-1]["content"]


MED_U1 = (
    "You are a helpful medical assistant. Think the question through first, checking yourself as you go, and put that "
    "reasoning between <think> and </think>. Then give the final answer between <answer> and </answer>."
)
MED_RLVR = (
    "You are a medical expert sitting a licensing examination. Write your reasoning between <think> and </think>, then "
    "only the final answer between <answer> and </answer>."
)
ASKED = {
    "choice": "Give only the letter of the right option within the <answer> tags.",
    "number": "Give the numerical value within the <answer> tags.",
    "date": "Give the date as MM/DD/YYYY within the <answer> tags.",
    "duration": "Give the duration as weeks and days, such as 17 weeks, 6 days, within the <answer> tags.",
    "text": "Give a short text within the <answer> tags.",
}


@pytest.mark.parametrize(("style", "system"), [("med_u1", MED_U1), ("med_rlvr", MED_RLVR)])
def test_the_papers_prompts_are_what_earlier_runs_were_asked(style: str, system: str) -> None:
    """To the byte, and known by their names: so old results stand beside new ones, and old runs go on."""
    tasks: dict[Task, Any] = {"choice": "A", "number": 1.0, "date": "01/02/2024", "text": "x"}
    for task, answer in {**tasks, "duration": {"weeks": 1, "days": 2}}.items():
        options, lines = (YES_NO, "A: yes\nB: no\nC: maybe\n") if task == "choice" else (None, "")
        for context, head in ((None, ""), ("A note.", "<Context>\nA note.\n</Context>\n")):
            example = Example("1", "s", task, "Which?", answer, context=context, options=options)
            chat = messages(example, Form(read_style(style)))
            assert chat[0] == {"role": "system", "content": system}
            assert chat[1:] == [{"role": "user", "content": f"{head}Which?\n{lines}{ASKED[task]}"}]
            target = LengthTarget("max", 9)
            assert _user(read_style(style), example, target) == chat[1]["content"] + " Think for maximum 9 tokens."
    assert {name: read_style(name).identity for name in ("plain", style)} == {"plain": "plain", style: style}


@pytest.mark.parametrize(
    ("style", "example", "expected"),
    [
        (
            "medcalc_bench",
            BMI,
            "The note of the patient:\n180 cm.\n65 kg.\n\nWhat is asked:\nWhat is the BMI?\n\nWrite your steps between "
            "<think> and </think>, and the number alone between <answer> and </answer>.",
        ),
        (
            "multiple_choice",
            CHOICE,
            "We did.\nQuestion: Does it?\nA. yes\nB. no\nC. maybe\nReason between <think> and </think>; then write "
            "nothing but the letter of the right option between <answer> and </answer>.\nAnswer:",
        ),
        (
            "pubmedqa",
            CHOICE,
            "Abstract: We did.\nQuestion: Does it?\nThe answer is one of these: yes, no, maybe.\nReason between "
            "<think> and </think>; then write nothing but the one that is right between <answer> and "
            "</answer>.\nAnswer:",
        ),
    ],
)
def test_benchmarks_prompts_word_by_word(style: str, example: Example, expected: str) -> None:
    assert _user(read_style(style), example) == expected
    said = _user(read_style(style), example, LengthTarget("exact", 9))
    assert said == expected.replace("</answer>.", "</answer>. Think for 9 tokens.")


def test_a_file_says_every_word_of_a_prompt(tmp_path: Path) -> None:
    """Fields where it wants them, the question twice, lines that fall away, and braces of its own."""
    style = _style(
        tmp_path,
        'system: \'Reply as {{"answer": "C"}}.\'\n'
        "question: |-\n  {instruction}\n\n  {context}\n  Q: {question} Options: {options}.\n  Again: {question}\n"
        'context: "[{context}]\\n"\noption: "({letter}) {text}"\nbetween: "; "\n'
        'instruction: {choice: "Take one, such as {{A}}."}\n',
    )
    assert messages(CHOICE, Form(style, LengthTarget("max", 5))) == [
        {"role": "system", "content": 'Reply as {"answer": "C"}.'},
        {
            "role": "user",
            "content": "Take one, such as {A}. Think for maximum 5 tokens.\n\n[We did.]\n\n"
            "Q: Does it? Options: (A) yes; (B) no; (C) maybe.\nAgain: Does it?",
        },
    ]
    assert _user(style, Example("t", "s", "text", "Which?", "x")) == "\nQ: Which? Options: .\nAgain: Which?"


def test_what_a_question_holds_is_never_a_field(tmp_path: Path) -> None:
    style = _style(tmp_path, "question: '{context}{question}{options}'\n")
    odd = Example(
        "1", "s", "choice", "{answer} {{0}} {x!r", "A", context="{question}", options={"A": "{", "B": "{text}"}
    )
    assert _user(style, odd) == "{question}{answer} {{0}} {x!rA. {\nB. {text}"


def test_plain_text_and_worked_examples_have_the_files_words(tmp_path: Path) -> None:
    shown = Example("2", "s", "text", "Which metal?", "zinc", meta={"trace": {"think": "t", "answer": "zinc"}})
    asked = Example("1", "s", "text", "Which vitamin?", "C")
    bare = Example("3", "s", "text", "Which acid?", "HCl")
    style = _style(tmp_path, "question: 'User: {question}'\nbefore_question: '# '\nbefore_answer: '{{A}} '\n")
    form = Form(style, template="base", shots=1, few_shot=(shown,))
    text = base_text(messages(asked, form), form)
    assert text == "# User: Which metal?{A} <think>t</think><answer>zinc</answer>\n\n# User: Which vitamin?{A} "
    # Where the words open the reasoning, worked examples go on from there.
    opened = _style(tmp_path, "question: '{question}'\nbefore_answer: ' Assistant: <think>'\n", "opened.yaml")
    form = Form(opened, template="base", shots=2, few_shot=(shown, bare))
    assert base_text(messages(asked, form), form) == (
        "Which metal? Assistant: <think>t</think><answer>zinc</answer>\n\n"
        "Which acid? Assistant: <think></think><answer>HCl</answer>\n\nWhich vitamin? Assistant: <think>"
    )
    words = _style(tmp_path, "question: '{question}'\nbefore_answer: ' <think>\n\n  So: '\n", "words.yaml")
    form = Form(words, template="base", shots=1, few_shot=(shown,))
    assert base_text(messages(asked, form), form) == (
        "Which metal? <think>\nSo: t</think><answer>zinc</answer>\n\nWhich vitamin? <think>\nSo: "
    )
    form = Form(_style(tmp_path, "question: '{question}'\n", "least.yaml"), template="base")
    assert base_text(messages(asked, form), form) == "Which vitamin?\nAnswer:\n"


def test_a_row_for_which_there_is_no_place_is_named(tmp_path: Path) -> None:
    style = _style(tmp_path, "question: 'Q: {question}'\n")
    with pytest.raises(
        StyleError, match=r"own\.yaml: question: has no \{context\}, and the row with id 'c' has a context"
    ):
        messages(CHOICE, Form(style))
    other = _style(tmp_path, "question: '{context}{question}'\n", "other.yaml")
    with pytest.raises(StyleError, match=r"question: has no \{options\}, and the row with id 'c' has options; add"):
        messages(CHOICE, Form(other))
    # Options that are not to be shown are left out in so many words, and letters are then taught to nobody.
    hidden = _style(tmp_path, "question: '{context} {question}'\noptions: ''\n", "hidden.yaml")
    assert _user(hidden, CHOICE) == "We did. Does it?"
    for style in (hidden, read_style("pubmedqa")):
        with pytest.raises(StyleError, match=r"shows options without their letters, and traces go by letters"):
            style.check_letters("traces")
    assert [name for name in BUILT_IN if not read_style(name).shows_letters] == ["pubmedqa"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"expected the keys of a prompt, such as question: TEXT, found nothing"),
        ("# only a comment\n", r"found nothing"),
        ("just words\n", r"found 'just words'"),
        ("- question\n", r"found \['question'\]"),
        ("system: s\n", r"question is missing, the text that \{question\} stands in"),
        ("question: ' '\n", r"question: expected a text, found ' '$"),
        ("system: &a x\nquestion: &b [*a, [*a]]\noption: *b\n", r"question: expected a text, found \['x', \['x'\]\]"),
        (
            "question: &a {question: *a}\n",
            r"question: expected a text, found \{'question': \{'question': \{\.\.\.\}\}\}",
        ),
        ("question: Which?\n", r"question: expected a text with \{question\} in it, found 'Which\?'"),
        (
            "question: '{question} {optoins}'\n",
            r"question: \{optoins\} is no field, in .*\{question\} \{context\} \{opt",
        ),
        ("question: '{question} {}'\n", r"question: \{\} is no field"),
        ("question: '{question!r}'\n", r"question: \{question\} is no field"),
        ("question: '{question.id}'\n", r"question: \{question\.id\} is no field"),
        ("question: '{question:>9}'\n", r"\{question\} is no field"),
        ("question: '{question} }'\n", r"question: Single '}' encountered.*written twice, \{\{ or \}\}"),
        ("question: '{question} {\"answer\": 5}'\n", r"question: \{\"answer\"\} is no field.*written twice"),
        (
            "question: '{question}'\nsystem: '{\"a\": 1}'\n",
            r"system: .*it has no fields, and a brace of the text itself",
        ),
        ("question: '{question}'\nsystem: Reply to {question}.\n", r"system: \{question\} is no field"),
        ("question: '{question}'\ncontext: 'A note.'\n", r"context: expected a text with \{context\} in it"),
        ("question: '{question}'\noptions: 'Options'\n", r"options: expected a text with \{options\} in it"),
        ("question: '{question}'\noption: '{letter}'\n", r"option: expected a text with \{text\} in it"),
        ("question: '{question}'\nquestion: '{question}'\n", r"line 2 is no YAML \(question stands there twice\)"),
        ("question: '{question}'\nsytem: x\n", r"sytem is no key of a prompt; expected .*did you mean system\?"),
        ("question: '{question}'\nno: x\n", r"False is no key of a prompt"),
        (
            "question: '{question}'\nbetween: no\n",
            r"between: expected a text, found False, as YAML reads it; put .* quotes",
        ),
        ("question: '{question}'\nsystem: 5\n", r"system: expected a text, found 5, as YAML reads it"),
        (
            "question: '{question}'\nsystem: 2024-01-02\n",
            r"system: expected a text, found datetime\.date\(2024, 1, 2\)",
        ),
        ("question: '{question}'\nsystem: !!bool maybe\n", r"no YAML \('maybe'\)"),
        ("question: '{question}'\nsystem: !!timestamp x\n", r"no YAML \(.*\)$"),
        ("question: '{question}'\nsystem: !!int ''\n", r"no YAML \(.*\)$"),
        ("question: '{question}'\ninstruction: !!map [a]\n", r"no YAML \(.*\)$"),
        ("question: '{question}'\nbefore_answer: '<think></think><answer>'\n", r"before_answer: opens <answer>, which"),
        ("question: '{question}'\nsystem: 2024-13-02\n", r"no YAML \(month must be in 1\.\.12\)"),
        ("question: '{question}'\nsystem:\n", r"system: expected a text, found nothing; leave the key out"),
        ("question: '{question}'\nsystem: ' '\n", r"system: expected a text, found ' '; leave the key out"),
        ("question: '{question}'\nsystem: [a]\n", r"system: expected a text, found \['a'\]"),
        (
            "question: '{question}'\ninstruction: Answer.\n",
            r"instruction: expected a text a task, such as choice: TEXT",
        ),
        (
            "question: '{question}'\ninstruction: {essay: x}\n",
            r"instruction\.essay: no task; expected choice, number, da",
        ),
        ("question: '{question}'\ninstruction: {choice: yes}\n", r"instruction\.choice: expected a text, found True"),
        ("question: '{question}'\nsays_target: 'no'\n", r"says_target: expected true or false, found 'no'"),
        (
            "question: {question}\n",
            r"question: expected a text, found \{'question': None\}, as YAML reads it; put the text",
        ),
        (
            "question: Q: {question}\n",
            r"line 1 is no YAML \(mapping values are not allowed here\); .* in quotes or behind",
        ),
        ("question: |-\n\t{question}\n", r"line 2 is no YAML .*lines are indented by spaces"),
        ("question: '{question}\n", r"line 2 is no YAML"),
        ("question: '{question}'\n---\nquestion: '{question}'\n", r"line 2 is no YAML"),
        ("question: !!python/object/apply:os.getcwd []\n", r"line 1 is no YAML \(could not determine a constructor"),
        ('question: "{question} \\ud83d"\n', r"question: half of a character"),
        ("\ufeffquestion: '{question}'\n", r"begins with a byte order mark; expected UTF-8 without one"),
    ],
)
def test_what_is_no_prompt_is_refused_by_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StyleError, match=said) as refused:
        _style(tmp_path, text)
    assert str(refused.value).startswith(f"data.style={tmp_path / 'own.yaml'}: ")
    assert "\n" not in str(refused.value)


def test_what_is_no_utf_8_file_is_refused(tmp_path: Path) -> None:
    text, path = "question: 'Größe: {question}'\n", tmp_path / "own.yaml"
    for encoding, said in (
        ("utf-16", r"begins with a byte order mark"),
        ("utf-16-le", r"line 1 is no UTF-8 text"),
        ("latin-1", r"line 1 is no UTF-8 text \(byte 0xf6\); save it so"),
    ):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(StyleError, match=said):
            read_style(str(path))
    with pytest.raises(
        StyleError, match=r"missing\.yaml: cannot be read \(No such file or directory\); expected a prompt"
    ):
        read_style(str(tmp_path / "missing.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(StyleError, match=r"cannot be read \(Is a directory\)"):
        read_style(str(tmp_path / "folder.yaml"))


def test_a_prompt_is_its_words_wherever_they_stand(tmp_path: Path) -> None:
    """Not its path, comments, line ends or defaults; and every word and every space of it."""
    text = "system: Größe µg 心.\nquestion: |-\n  Q: {question}\n  {options}\ninstruction:\n  choice: One.\n"
    own, bare = _style(tmp_path, text), dataclasses.replace(CHOICE, context=None)
    again = (
        f"# another comment\n{text}",
        text.replace("\n", "\r\n"),
        text + 'between: "\\n"\nsays_target: true\n',
        "instruction: {choice: One.}\nquestion: \"Q: {question}\\n{options}\"\nsystem: 'Größe µg 心.'\n",
    )
    for number, other in enumerate(again):
        found = _style(tmp_path, other, f"again{number}.yaml")
        assert (found.identity, _user(found, bare)) == (own.identity, _user(own, bare)), other
    others = (
        text.replace("One.", "One!"),
        text.replace("|-", "|"),
        text.replace("Q: ", "Q:  "),
        text.replace("choice:", "text:"),
        text + "says_target: false\n",
        text + "before_answer: ''\n",
    )
    changed = {_style(tmp_path, other, f"other{number}.yaml").identity for number, other in enumerate(others)}
    assert len(changed | {own.identity}) == len(others) + 1
    copied = (Path(__file__).parents[2] / "configs" / "prompt" / "plain.yaml").read_text()
    assert _style(tmp_path, copied, "copied.yaml").identity == "plain"
    assert _style(tmp_path, copied.replace("Options: ", "Option: "), "edited.yaml").identity not in BUILT_IN


@pytest.mark.parametrize("style", BUILT_IN)
def test_a_release_has_the_same_words(style: str, tmp_path: Path) -> None:
    """Also of what the file leaves out, which is written down."""
    given = read_style(style)
    read = _style(tmp_path, prompt_yaml(given.spelled_out))
    assert (read.digest, read.identity) == (given.digest, given.identity)
    assert {"question", "option", "between", "options", "context"} <= read.words.keys()


# The deadline is off: a test among others may wait for the machine.
@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="{}"), min_size=1), ending=st.sampled_from(_ENDS))
def test_whatever_words_say_reads_back_the_same(text: str, ending: str) -> None:
    words = {"system": f"x{text}{ending}", "question": f"{ending}{text}{{question}}{ending}", "says_target": False}
    assert yaml.safe_load(prompt_yaml(words).encode()) == words


def test_a_built_in_style_puts_every_task() -> None:
    """With a context and without one, in one piece that ends no line twice."""
    for name in BUILT_IN:
        for example in (BMI, CHOICE, Example("t", "s", "text", "Which?", "x")):
            for context in (None, example.context):
                user = _user(read_style(name), dataclasses.replace(example, context=context))
                assert user.strip() == user
                assert "{" not in user
                assert "\n\n\n" not in user
