import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from recipes.monitor.loggers import MetricsLogger
from recipes.monitor.report import main, write_report
from recipes.monitor.report_charts import Chart, Line, format_value, line_chart, nice_axis, smooth
from recipes.monitor.report_curves import CHARTS
from recipes.monitor.report_data import bucket_rows
from recipes.monitor.report_samples import highlight, sample_cards
from recipes.monitor.rollouts import RolloutRecord, write_rollouts
from recipes.monitor.run_folder import RunFolderError
from tests.monitor.synthetic_run import INJECTION, evaluation, rollout, write_synthetic_run


class Page(HTMLParser):
    """The page's tags, and its text without tags; checks that tags nest."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def page(whole_run: Path) -> Page:
    path = write_report(whole_run)
    assert path == whole_run / "report.html"
    return Page(path.read_text())


def minimal_run(run_dir: Path) -> Path:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text("model: tiny\ndata: {name: medqa}\n")
    with MetricsLogger(run_dir) as logger:
        logger.log(1, {"reward/mean": 0.5, "time/train_s": 2.0}, seconds=2.0)
    return run_dir


def test_headline_says_what_was_trained(page: Page) -> None:
    assert "quickstart <demo>" in page.text
    assert "GRPO on tiny-qwen2-3.7m" in page.text
    # The last line says 640 s for 200 steps.
    assert "200 steps · 10 min 40 s of training · 3.2 s a step" in page.text
    assert "Synthetic-data demonstration / not for medical use" in page.text
    assert "research software, not a medical device" in page.text


def test_table_gives_differences_with_standard_errors(page: Page) -> None:
    text = " ".join(page.text.split())
    # Choice: 0.30 -> 0.79 of 120. sqrt(.3*.7/120) = .0418, sqrt(.79*.21/120) = .0372, root of the sum of squares .0560.
    assert "Multiple choicen = 12030.0%± 4.279.0%± 3.7+49.0± 5.671.0%± 4.1" in text
    # The mean of the tasks: (.30+.12+.21)/3 = .21, (.79+.66+.19)/3 = .54667.
    assert "Mean21.0%± 2.154.7%± 2.2+33.7± 3.1" in text


def test_a_difference_within_twice_its_error_has_no_colour(whole_run: Path) -> None:
    source = write_report(whole_run).read_text()
    assert '<span class="same">−2.0</span>' in source
    assert '<span class="gain">+49.0</span>' in source


def test_every_chart_is_there_and_accessible(page: Page) -> None:
    figures = [attributes["id"] for tag, attributes in page.tags if tag == "figure"]
    assert figures == ["chart-evaluation", *(f"chart-{chart.name}" for chart in CHARTS)]
    images = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    assert len(images) == len(figures)
    for image in images:
        assert set((image["aria-labelledby"] or "").split()) <= ids
    assert page.text.count("Values as a table") == len(CHARTS)
    assert page.text.count("What a healthy run looks like.") == len(CHARTS)


def test_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_a_metric_that_was_not_finite_is_said(page: Page) -> None:
    assert "left out of the line: Gradient norm, 1 of the steps." in page.text


def test_twenty_samples_with_their_scores(page: Page) -> None:
    cards = [attributes for tag, attributes in page.tags if "sample" in (attributes.get("class") or "").split()]
    assert len(cards) == 20
    assert {card["data-outcome"] for card in cards} >= {"correct", "incorrect", "malformed"}
    assert {card["data-task"] for card in cards} == {"choice", "calculation", "text"}
    assert "Gold answer" in page.text
    assert "Reward components" in page.text
    assert "group_size: 8" in page.text


def test_model_text_is_escaped(page: Page, whole_run: Path) -> None:
    assert INJECTION in page.text
    assert INJECTION not in (whole_run / "report.html").read_text()
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_every_text_from_outside_is_escaped(tmp_path: Path) -> None:
    bad = f'"{INJECTION}'
    run_dir = minimal_run(tmp_path / "run")
    (run_dir / "config.yaml").write_text(json.dumps({"name": bad, "model": bad, bad: bad}))
    (run_dir / "summary.json").write_text(json.dumps({bad: bad}))
    (run_dir / "evaluation").mkdir()
    after = {**evaluation("after", (0.5, 0.5, 0.5)), "split": bad, "name": bad}
    after["tasks"] = {bad: {"questions": 3, "accuracy": 0.5, "stderr": 0.1, "mean_tokens": 5}}
    (run_dir / "evaluation" / "after.json").write_text(json.dumps(after))
    record = rollout(1, 0, "text", "correct")
    texts: Any = dict.fromkeys(("id", "task", "prompt", "response", "answer", "extracted", "status"), bad)
    write_rollouts(run_dir, 1, [replace(record, **texts, components={bad: 1.0})])
    page = Page(write_report(run_dir).read_text())
    # The page's own script and the data of its two charts.
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["application/json"] * 2 + [
        None
    ]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(INJECTION) >= 15


def test_the_page_asks_for_nothing(page: Page, whole_run: Path) -> None:
    source = (whole_run / "report.html").read_text()
    for tag, attributes in page.tags:
        assert "src" not in attributes
        href = attributes.get("href") or "#"
        assert href.startswith("#") or (tag == "link" and href.startswith("data:"))
        assert "style" not in attributes
    assert "url(" not in source
    assert "@import" not in source
    assert "default-src 'none'" in source


def test_the_same_folder_gives_the_same_page(whole_run: Path) -> None:
    assert write_report(whole_run).read_bytes() == write_report(whole_run).read_bytes()


def test_only_config_and_metrics_are_needed(tmp_path: Path) -> None:
    page = Page(write_report(minimal_run(tmp_path / "bare")).read_text())
    assert "bare" in page.text
    assert "GRPO on tiny" in page.text
    assert "No evaluation before and after training in this run folder yet" in page.text
    assert "Each evaluation" not in page.text
    assert "kept no rollout samples" in page.text
    assert "Not recorded in this run: accuracy of the rollouts," in page.text
    assert [a["id"] for tag, a in page.tags if tag == "figure"] == ["chart-reward", "chart-time"]


def test_evaluations_of_other_names_are_pointed_to(tmp_path: Path) -> None:
    folder = minimal_run(tmp_path / "bare") / "evaluation"
    folder.mkdir()
    for name in ("in_max <b>.json", "in_max <b>.html", "in_max <b>.jsonl", "half.json", "stray.html"):
        (folder / name).write_text("{}")
    text = Page(write_report(folder.parent).read_text()).text
    assert "Each evaluation with its answers: evaluation/in_max <b>.html." in text


def test_a_headline_is_the_question() -> None:
    """Whatever words stand around it; of older files, what follows a long opening that all prompts share."""
    whole = {"response": "x", "answer": "A", "extracted": None, "reward": 0.0, "status": "incorrect", "components": {}}
    opening = f"<|im_start|>system\n{'Think. ' * 9}<|im_end|>\n<|im_start|>user\n"
    records = [
        RolloutRecord(step=1, id="q", task="choice", prompt=f"{opening}Which {x}?\nA. I", tokens=1, group=n, **whole)
        for n, x in enumerate("ab")
    ]
    asked = [replace(record, question="Which <b>\nof all?") for record in records]
    for found, headlines in ((records, ["Which a? A. I", "Which b? A. I"]), (asked, ["Which &lt;b&gt; of all?"] * 2)):
        assert re.findall(r'class="excerpt">(.*?)</span>', sample_cards(found)) == headlines


def test_a_run_without_rewards_is_not_called_grpo(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: tiny\n")
    with MetricsLogger(tmp_path) as logger:
        logger.log(1, {"policy/loss": 0.5}, seconds=2.0)
    page = Page(write_report(tmp_path).read_text())
    assert "Training of tiny" in page.text
    assert "GRPO" not in page.text


def test_real_data_is_not_called_synthetic(tmp_path: Path) -> None:
    page = Page(write_report(minimal_run(tmp_path)).read_text())
    assert "Not for medical use" in page.text
    assert "Synthetic" not in page.text


def test_one_evaluation_alone_has_no_difference(tmp_path: Path) -> None:
    run_dir = write_synthetic_run(tmp_path / "run", steps=10, sft=False)
    (run_dir / "evaluation" / "after.json").unlink()
    page = Page(write_report(run_dir).read_text())
    assert "Change" not in [text.strip() for text in page.text.split("\n")]
    assert "chart-evaluation" in [attributes.get("id") for _, attributes in page.tags]


def test_sets_out_of_distribution_stand_apart(tmp_path: Path) -> None:
    run_dir = write_synthetic_run(tmp_path / "run", steps=10, sft=False)
    for name, share in (("before", 0.2), ("after", 0.3)):
        path = run_dir / "evaluation" / f"{name}.json"
        own = {"questions": 400, "accuracy": share, "stderr": math.sqrt(share * (1 - share) / 400)}
        path.write_text(json.dumps({**json.loads(path.read_text()), "distributions": {"out of distribution": own}}))
    text = " ".join(Page(write_report(run_dir).read_text()).text.split())
    # sqrt(.2*.8/400) = .02, sqrt(.3*.7/400) = .0229, root of the sum of squares .0304.
    assert "Out of distributionn = 40020.0%± 2.030.0%± 2.3+10.0± 3.0" in text


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl"])
def test_missing_needed_files_are_named(tmp_path: Path, missing: str) -> None:
    (minimal_run(tmp_path) / missing).unlink()
    with pytest.raises(RunFolderError, match=re.escape(missing)):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_no_step_yet_is_an_error(tmp_path: Path) -> None:
    minimal_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="no step yet"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "a: [1", "config.yaml: expected YAML"),
        ("config.yaml", "- a", "expected a YAML mapping"),
        ("summary.json", "[]", "summary.json: expected a JSON object"),
        ("metrics.jsonl", '{"step": 2, "policy/kl": "x"}\n', "policy/kl of step 2 is 'x', expected a number or null"),
        ("evaluation/after.json", '{"tasks": {}, "mean": 1e308}', "after.json: not an evaluation result (1e+308 is"),
        ("evaluation/after.json", "{", "after.json: expected a JSON object"),
        (
            "evaluation/after.json",
            '{"tasks": {"choice": {"questions": 3}}}',
            "after.json: the key 'accuracy' is missing",
        ),
        ("evaluation/before.json", '{"tasks": [], "mean": 1}', "before.json: not an evaluation result"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    minimal_run(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(RunFolderError, match=re.escape(message)):
        write_report(tmp_path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = minimal_run(tmp_path / "run")
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "report.html")
    assert main([str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_help_teaches() -> None:
    command = [sys.executable, "-m", "recipes.monitor.report", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "config.yaml and metrics.jsonl" in done.stdout
    assert "Example:" in done.stdout


def test_a_long_run_is_averaged_into_few_points() -> None:
    rows = [{"step": step, "a": float(step), **({"b": 1.0} if step % 2 else {})} for step in range(1, 1202)]
    bucketed, size = bucket_rows(rows, limit=600)
    assert size == 3
    assert len(bucketed) == 401
    # Steps 1, 2, 3: the mean of a is 2; b is on steps 1 and 3 only.
    assert bucketed[0] == {"step": 3, "a": 2.0, "b": 1.0}
    # 1201 = 3 * 400 + 1: the last bucket holds one step.
    assert bucketed[-1] == {"step": 1201, "a": 1201.0, "b": 1.0}


def test_smoothing_keeps_a_constant_and_a_middle() -> None:
    assert smooth([3.0] * 50) == pytest.approx([3.0] * 50)
    assert smooth([5.0]) == [5.0]
    # A centred average does not shift a straight line, except near the ends.
    assert smooth([float(value) for value in range(101)])[50] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.3, 0.9, [-0.5, -0.25, 0, 0.25, 0.5, 0.75, 1.0]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_axis(low: float, high: float, ticks: list[float]) -> None:
    assert nice_axis(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (-2, -2), (1e-9, 2e-9), (1e12, 1e12 + 1), (0.999, 1.0)])
def test_axis_encloses_the_values(low: float, high: float) -> None:
    ticks = nice_axis(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 12


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.12345, "percent", "12.3%"),
        (1234.6, "tokens", "1,235"),
        (-0.5, "number", "−0.500"),
        (0.00012, "number", "0.00012"),
        (-0.0000001, "number", "0.00000"),
        (2.0, "seconds", "2.0 s"),
        (None, "percent", "–"),
    ],
)
def test_values_for_people(value: float | None, kind: str, text: str) -> None:
    assert format_value(value, kind) == text


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [None, 0.4, None, 0.6], [1.0, 1.0, 1.0], [-1.0, 1.0]])
@pytest.mark.parametrize("kind", ["percent", "number", "tokens", "seconds"])
def test_charts_of_odd_runs_are_drawn_without_nan(stacked: bool, values: list[float | None], kind: str) -> None:
    chart = Chart("odd", "Odd", kind, (Line("a", "A", "blue"), Line("b", "B", "orange")), "Fine.", stacked=stacked)
    rows = [{"step": step, "a": value} for step, value in enumerate(values, start=1)]
    drawn = line_chart(chart, rows, {})
    assert "chart-odd" in drawn
    assert not re.search(r"nan|inf\b", drawn.split("</svg>\n<div")[0])
    assert json.loads(re.findall(r'class="data">(.*?)</script>', drawn)[0])["steps"] == [row["step"] for row in rows]


def test_a_chart_without_values_is_left_out() -> None:
    chart = Chart("none", "None", "number", (Line("a", "A", "blue"),), "Fine.")
    assert line_chart(chart, [{"step": 1, "a": None}, {"step": 2}], {}) == ""


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ("<think>a</think>\n<answer>B</answer>", [("think", "a"), ("answer", "B")]),
        (
            "so B <think>a</think><answer>B</answer> done",
            [("outside", "so B "), ("think", "a"), ("answer", "B"), ("outside", " done")],
        ),
        ("<think>never closed <answer>B</answer>", [("think", "never closed "), ("answer", "B")]),
        ("<answer>B", [("answer", "B")]),
        ("plain", [("outside", "plain")]),
        ("", []),
    ],
)
def test_reasoning_and_answer_are_told_apart(response: str, parts: list[tuple[str, str]]) -> None:
    assert re.findall(r'<span class="(think|answer|outside)">(.*?)</span>', highlight(response)) == parts
    assert Page(f"<pre>{highlight(response)}</pre>").text == response


def test_only_what_was_measured_alike_is_compared(tmp_path: Path) -> None:
    """Each kind of stranger, in one run: the page shows no difference to it, and names both digests."""
    run_dir = write_synthetic_run(tmp_path / "run", steps=20, sft=False)
    page = write_report(run_dir).read_text()
    assert "points from before" in page
    assert "before: 7 questions too long and left out" in page
    before = run_dir / "evaluation" / "before.json"
    result = json.loads(before.read_text())
    changed = [{"path": "/data/test.jsonl", "sha256": "ef" * 32}]
    for content, said in (
        ({**result, "measured": {**result["measured"], "data": changed}}, "data: efefefefefef and cdcdcdcdcdcd"),
        ({key: value for key, value in result.items() if key != "weights"}, "an older release made it"),
        ({**result, "tasks": {}}, "no question was answered and scored"),
    ):
        before.write_text(json.dumps(content))
        page = write_report(run_dir).read_text()
        assert "before.json is left out: " in page
        assert said in page
        assert "points from before" not in page
    before.write_text(json.dumps(result))
    step = run_dir / "checkpoints" / "step_000020"
    step.mkdir(parents=True)
    origin = {"stage": "grpo", "model": "other" * 8, "data": [], "rows": [], "before": None}
    (step / "state.json").write_text(json.dumps({"origin": origin}))
    assert "it measured weights of sha256 beforebefore, and the run started from otherotherot" in (
        write_report(run_dir).read_text()
    )
