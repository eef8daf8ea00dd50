"""The page at /: a person pastes a response and sees what was read and why it scored so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from reward_server.process import RewardServerProcess
from tests.browser import NEEDS_BROWSER, browser

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, server: RewardServerProcess) -> Iterator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("chromium")) as driver:
        driver.get(server.url)
        yield driver


def score(page: webdriver.Chrome, response: str) -> dict[str, str]:
    field = page.find_element(By.ID, "response")
    field.clear()
    field.send_keys(response)
    page.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    table = page.find_element(By.ID, "result")
    WebDriverWait(page, 20).until(
        lambda _: table.is_displayed() or page.find_element(By.ID, "error").text, "neither a result nor an error"
    )
    rows = table.find_elements(By.TAG_NAME, "tr")
    return {row.find_element(By.TAG_NAME, "th").text: row.find_element(By.TAG_NAME, "td").text for row in rows}


def test_an_answer_is_explained(page: webdriver.Chrome) -> None:
    Select(page.find_element(By.ID, "task")).select_by_value("choice")
    found = score(page, "<think>t</think><answer>(C) Heparin</answer>")
    assert found["Verdict"].startswith("correct: ")
    assert found["Read as"] == "C"
    assert found["Reward"] == "1"
    assert found["Form"] == "as it should be"
    found = score(page, "I think <think>t</think><answer>A or B</answer>")
    assert found["Verdict"].startswith("no_answer: ")
    assert found["Read as"] == "nothing"
    assert found["Form"] == "text outside"


def test_every_task_has_an_example_that_scores(page: webdriver.Chrome) -> None:
    answers = {"number": "23.5", "date": "09/03/2014", "duration": "17 weeks, 6 days", "text": "PE"}
    for task, answer in answers.items():
        Select(page.find_element(By.ID, "task")).select_by_value(task)
        assert score(page, f"<think>t</think><answer>{answer}</answer>")["Reward"] == "1", task


def test_a_mistake_in_the_reference_is_said(page: webdriver.Chrome) -> None:
    Select(page.find_element(By.ID, "task")).select_by_value("choice")
    field = page.find_element(By.ID, "reference")
    field.clear()
    field.send_keys('{"answer": "Z", "options": {"A": "x", "B": "y"}}')
    assert score(page, "<think>t</think><answer>A</answer>") == {}
    assert "items.0.reference" in page.find_element(By.ID, "error").text


def test_it_fits_a_phone(page: webdriver.Chrome) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert not [
        entry for entry in page.get_log("browser") if entry["level"] == "SEVERE" and "422" not in entry["message"]
    ]
