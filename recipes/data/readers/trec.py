"""TREC Clinical Trials (2021 to 2023): is a patient eligible for a trial? Patient-trial matching, as EHRMind trains it.

Three sources make a question: the topics (a patient each; notes in 2021 and 2022, fields in 2023), the judgements
("topic 0 trial grade", where grade 0 is not relevant, 1 excluded, 2 eligible) and the trials, of which SOURCE is read
one by one: the official zip archives or folders of XML files of ClinicalTrials.gov, or rows of JSON lines as TrialGPT
publishes them (`_id`, `title`, `metadata`). Judgements and topics are held in memory, trials are not.

Topics of two years have the same numbers: prepare each year by itself, with ids of its own (--ids). Rows of one patient
belong into one split; `meta.topic` names the patient.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conversion import command
from recipes.data.errors import ExampleError
from recipes.data.example import Example, example_from_row
from recipes.data.readers.base import LeftOut, Reader, text_of
from recipes.data.sources import Source
from recipes.data.text_files import MAX_ROW_CHARS, TextFile

_GRADES = {0: "C", 1: "B", 2: "A"}
_OPTIONS = {
    "A": "Eligible: the patient may enroll in the trial",
    "B": "Excluded: the patient has the condition that the trial is for, but the criteria exclude the patient",
    "C": "Not relevant: the trial is not for a patient like this one",
}
_QUESTION = "Is the patient eligible for this clinical trial?"
# The published topics have bare ampersands, which are no XML; a bare "<" of a comparison is meant for those to come.
_BARE = re.compile(r"&(?!(?:[a-zA-Z]+|#[0-9]+|#x[0-9a-fA-F]+);)|<(?=[\s0-9=])")
_YEAR = re.compile(r"(?<!\d)20\d\d(?!\d)")
# Where a trial's XML keeps what a prompt shows, and the name that TrialGPT's rows have for it.
_PARTS = (
    ("Title", "brief_title", "brief_title"),
    ("Conditions", "condition", "diseases_list"),
    ("Summary", "brief_summary/textblock", "brief_summary"),
    ("Gender", "eligibility/gender", None),
    ("Minimum age", "eligibility/minimum_age", None),
    ("Maximum age", "eligibility/maximum_age", None),
    ("Criteria", "eligibility/criteria/textblock", None),
    ("Inclusion criteria", None, "inclusion_criteria"),
    ("Exclusion criteria", None, "exclusion_criteria"),
)


def _rows(source: Source, ids: str, *, topics: Path, judgements: Path) -> Iterator[Example | LeftOut]:
    patients, task = _topics(topics)
    years = [set(_YEAR.findall(text)) for text in (f"{task} {topics.name}", judgements.name)]
    if all(years) and not years[0] & years[1]:
        raise ExampleError(
            f"{judgements}: is of {', '.join(sorted(years[1]))} by its name, and {topics} of "
            f"{', '.join(sorted(years[0]))}; topics of every year have the same numbers: name files of one year"
        )
    judged = _judgements(judgements, patients)
    unjudged = set(patients) - {topic for pairs in judged.values() for topic, _, _ in pairs}
    for trial, text, where in _trials(source, judged):
        for topic, grade, _ in judged.pop(trial, ()):
            yield example_from_row(
                {
                    "id": f"{ids}/{topic}/{trial}",
                    "source": "TREC-CT",
                    "task": "choice",
                    "context": f"Patient:\n{patients[topic]}\n\nClinical trial {trial}:\n{text}",
                    "question": _QUESTION,
                    "options": _OPTIONS,
                    "answer": _GRADES[grade],
                    "license": "public domain (US government)",
                    "meta": {"topic": topic, "category": "patient-trial matching"},
                },
                where,
            )
    for topic in patients:
        if topic in unjudged:
            yield LeftOut("a topic without a judgement; are these of another year?", f"{topics}, topic {topic}")
    for pairs in judged.values():
        yield from (LeftOut(f"its trial is not in {source.name}", where) for _, _, where in pairs)


def _topics(path: Path) -> tuple[dict[str, str], str]:
    """The patients' notes by number, and the task, which has a year in it."""
    with _text(path) as file:
        content = file.read(MAX_ROW_CHARS)
    root = _parsed(_BARE.sub(lambda bare: "&amp;" if bare[0] == "&" else "&lt;", content), str(path))
    found: dict[str, str] = {}
    for place, topic in enumerate(root.iter("topic"), 1):
        number = topic.get("number", "").strip()
        fields = [f"{field.get('name', '')}: {_flat(field)}" for field in topic.iter("field") if _flat(field)]
        note = "\n".join(([topic.get("template", "")] if fields else []) + fields) if fields else _flat(topic)
        if not number or not note.strip() or number in found:
            raise ExampleError(f"{path}, topic {place}: expected a number of its own and a patient, found {number!r}")
        found[number] = note.strip()
    if not found:
        raise ExampleError(f"{path}: holds no <topic number=...>; expected TREC's topics in XML")
    return found, root.get("task", "")


def _judgements(path: Path, patients: dict[str, str]) -> dict[str, list[tuple[str, int, str]]]:
    """By trial: topic, grade and place of every judgement."""
    found: dict[str, list[tuple[str, int, str]]] = {}
    seen: dict[tuple[str, str], int] = {}
    with _text(path) as file:
        for line in file.lines():
            if not (parts := line.split()):
                continue
            where = f"{path}:{file.line}"
            if len(parts) != 4 or parts[3] not in ("0", "1", "2"):
                raise ExampleError(f"{where}: expected 'topic 0 trial grade' with a grade of 0, 1 or 2, found {line!r}")
            topic, trial = parts[0], parts[2]
            if topic not in patients:
                raise ExampleError(f"{where}: topic {topic} is none of the topics; are they of another year?")
            if first := seen.get((topic, trial)):
                raise ExampleError(f"{where}: topic {topic} and trial {trial} are judged in line {first} already")
            seen[topic, trial] = file.line
            found.setdefault(trial, []).append((topic, int(parts[3]), where))
    if not found:
        raise ExampleError(f"{path}: holds no judgements; expected lines of 'topic 0 trial grade'")
    return found


def _trials(source: Source, wanted: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Number, text and place of the wanted trials."""
    path = source.path
    if path is not None and (path.is_dir() or zipfile.is_zipfile(path)):
        for content, where in _documents(path, wanted):
            root = _parsed(content, where)
            shown = [(title, [_flat(e) for e in root.iterfind(at)]) for title, at, _ in _PARTS if at]
            yield root.findtext("id_info/nct_id", "").strip(), _shown(shown), where
        return
    for row in source.rows():
        trial = str(row["_id"])
        if trial in wanted:
            metadata = row["metadata"]
            if not isinstance(metadata, dict):
                raise row.wrong("metadata", "an object", metadata)
            texts = {"brief_title": row.values.get("title"), **metadata}
            shown = [(title, [text_of(row, name, texts.get(name))]) for title, _, name in _PARTS if name]
            yield trial, _shown(shown), row.where


def _documents(path: Path, wanted: dict[str, Any]) -> Iterator[tuple[bytes, str]]:
    """The XML files of a folder, of archives in it, or of an archive, whose name is that of a wanted trial."""
    for file in sorted(path.rglob("*")) if path.is_dir() else (path,):
        if file.suffix == ".xml" and file.stem in wanted:
            yield file.read_bytes(), str(file)
        elif file.suffix != ".xml" and file.is_file() and zipfile.is_zipfile(file):
            try:
                with zipfile.ZipFile(file) as archive:
                    for name in archive.namelist():
                        if Path(name).suffix == ".xml" and Path(name).stem in wanted:
                            yield archive.read(name), f"{file}, {name}"
            except (zipfile.BadZipFile, EOFError) as error:
                raise ExampleError(f"{file}: not a whole archive ({error}); fetch it again") from None


def _parsed(content: str | bytes, where: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ExampleError(f"{where}: not XML ({error}); it is cut short or damaged") from None


def _flat(element: ElementTree.Element) -> str:
    """An element's text with its line breaks for paragraphs alone."""
    paragraphs = re.split(r"\n\s*\n", "".join(element.itertext()))
    return "\n".join(" ".join(part.split()) for part in paragraphs if part.strip())


def _shown(parts: list[tuple[str, list[str]]]) -> str:
    return "\n".join(f"{title}: {', '.join(filter(None, texts))}" for title, texts in parts if any(texts))


def _text(path: Path) -> TextFile:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected TREC's topics and judgements beside the trials")
    return TextFile(path)


READER = Reader(
    "trec",
    "TREC Clinical Trials: SOURCE holds the trials (zip, folder of XML, or TrialGPT's JSON lines)",
    _rows,
    {
        "--topics": {"type": command.path_argument, "required": True, "metavar": "FILE", "help": "topics2021.xml"},
        "--judgements": {"type": command.path_argument, "required": True, "metavar": "FILE", "help": "qrels2021.txt"},
    },
)
