"""Pages of evaluations, alone and compared, in a real browser: what a parser cannot see (layout, colours, scripts)."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from recipes.evaluation.page import add_scores, write_page
from tests.browser import CONTRAST, NEEDS_BROWSER, OVERLAPS, browser, open_everything, show
from tests.evaluation.test_compare import write_evaluation
from tests.evaluation.test_scores import SCORES
from tests.evaluation.test_summary import row

pytestmark = NEEDS_BROWSER

_MORE = {"sft": 4, "grpo": 6, "ppo": 7}
_SETS = ("MedQA", "MedXpertQA with a long name", "MMLU")


def _rows(right: int) -> list[dict[str, Any]]:
    """Eight answers to each of 24 questions, options in two orders, without options, at three budgets."""
    rows = []
    for number in range(24):
        common = {"source": _SETS[number % 3], "subject": f"Subject {number % 4}"}
        for sample in range(8):
            said = "A" if (number * 5 + sample * 3) % 11 < right else "C" if sample % 5 else None
            rows.append(row(f"q{number}", said, sample=sample, cut=said is None, **common))
        rows.append(row(f"q{number}", "C", "D", variant="shuffled 1", order="BCDA", **common))
        for budget in (64, 256, 1024):
            asked = {"variant": f"budget {budget}", "budget": budget, "budget_mode": "exact"}
            said = "A" if number % 24 < right * math.log2(budget) / 4 else "C"
            rows.append(row(f"q{number}", said, tokens=40 + budget * (20 + number) // 32, **asked, **common))
        rows.append(row(f"q{number}", "aspirin", "heparin", group="text", variant="short", **common))
    return rows


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    a, b = (write_evaluation(folder, name, _rows(right)) for name, right in (("before", 3), ("after", 7)))
    subprocess.run([sys.executable, "-m", "recipes.compare", str(a), str(b)], check=True, timeout=120)
    named = [write_evaluation(folder, f"{name} with a long name", _rows(right)) for name, right in _MORE.items()]
    several = [str(path) for path in (a, *named)]
    subprocess.run([sys.executable, "-m", "recipes.compare", *several], check=True, timeout=120)
    comparison = folder / "comparison" / "before_after.html"
    [of_several] = set(comparison.parent.glob("*.html")) - {comparison}
    for kind, scores in SCORES.items():
        add_scores(b.with_suffix(".jsonl"), kind, [], scores)
    return {"several": of_several, "evaluation": write_page(b)[0], "comparison": comparison}


def test_the_pages_in_a_browser(pages: dict[str, Path], tmp_path: Path) -> None:
    with browser(tmp_path) as driver:
        for name, page in pages.items():
            for scheme, width in (("light", 1280), ("dark", 390)):
                show(driver, page.as_uri(), scheme=scheme, width=width)
                open_everything(driver)
                case = f"{name}, {scheme}, {width}"
                assert driver.get_log("browser") == [], case
                assert driver.execute_script("return window.injected === undefined"), case
                assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0, case
                faint = {kind: ratio for kind, ratio in driver.execute_script(CONTRAST) if ratio < 4.5}
                assert faint == {}, case
                assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"), case
                assert driver.execute_script(OVERLAPS) == [], case
            if name == "several":
                continue
            # The key's own words are in the tip of a chart over k.
            plot = driver.find_element(By.CSS_SELECTOR, ".plot")
            plot.send_keys(Keys.END)
            assert plot.find_element(By.CSS_SELECTOR, ".tip").text.startswith("k = 8\n")
        chosen = driver.find_element(By.CSS_SELECTOR, "[data-filter=task][data-value=MMLU]")
        chosen.click()
        shown = [card for card in driver.find_elements(By.CSS_SELECTOR, ".sample") if card.is_displayed()]
        assert {card.get_attribute("data-task") for card in shown} == {"MMLU"}
