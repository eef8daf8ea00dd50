"""The report in a real browser: what a parser cannot see (layout, colours, scripts)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from recipes.monitor.report import write_report
from recipes.monitor.report_curves import CHARTS
from tests.browser import CONTRAST, NEEDS_BROWSER, OVERLAPS, browser, open_everything, show

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def address(whole_run: Path) -> str:
    return write_report(whole_run).as_uri()


def test_the_console_is_silent_and_the_page_fetches_nothing(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    open_everything(driver)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == []


def test_text_of_the_model_does_not_run(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    open_everything(driver)
    assert "window.injected = true" in driver.find_element(By.ID, "samples").text
    assert driver.execute_script("return window.injected === undefined && document.images.length === 0")


def test_the_page_policy_stops_a_script_even_without_escaping(
    driver: webdriver.Chrome, whole_run: Path, tmp_path: Path
) -> None:
    source = write_report(whole_run).read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(source.replace("</main>", "<script>window.injected = true</script></main>"))
    show(driver, broken.as_uri())
    assert driver.execute_script("return window.injected === undefined")
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable(driver: webdriver.Chrome, address: str, scheme: str) -> None:
    show(driver, address, scheme=scheme)
    open_everything(driver)
    measured = driver.execute_script(CONTRAST)
    kinds = {kind for kind, _ in measured}
    assert {
        "P.healthy",
        "text.tick",
        "text.value",
        "text.rowname",
        "SPAN.think",
        "SPAN.answer",
        "SPAN.outside",
    } <= kinds
    assert {kind: ratio for kind, ratio in measured if ratio < 4.5} == {}


def test_dark_and_light_differ(driver: webdriver.Chrome, address: str) -> None:
    colours = []
    for scheme in ("light", "dark"):
        show(driver, address, scheme=scheme)
        colours.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


@pytest.mark.parametrize("width", [1280, 768, 390, 360])
def test_no_width_scrolls_sideways(driver: webdriver.Chrome, address: str, width: int) -> None:
    show(driver, address, width=width)
    open_everything(driver)
    assert driver.execute_script("return innerWidth") == width
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [1280, 390])
def test_every_chart_has_a_size_and_keeps_its_labels_apart(driver: webdriver.Chrome, address: str, width: int) -> None:
    show(driver, address, width=width)
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('svg.canvas')].map((s) => [s.clientWidth, s.clientHeight])"
    )
    assert len(sizes) == len(CHARTS) + 1
    assert all(w > 200 and h > 100 for w, h in sizes)
    assert driver.execute_script(OVERLAPS) == []


def test_lines_are_drawn_inside_their_chart(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    outside = driver.execute_script("""
      return [...document.querySelectorAll("svg.canvas path")].filter((path) => {
        const box = path.getBoundingClientRect(), frame = path.ownerSVGElement.parentElement.getBoundingClientRect();
        return box.width < 50 || box.right > frame.right + 3 ||
          box.top < frame.top - 3 || box.bottom > frame.bottom + 3;
      }).length""")
    assert outside == 0


def test_a_card_opens_with_a_click(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    card = driver.find_element(By.CSS_SELECTOR, ".sample")
    assert not card.find_element(By.CSS_SELECTOR, ".body").is_displayed()
    card.find_element(By.TAG_NAME, "summary").click()
    assert card.find_element(By.CSS_SELECTOR, ".response").is_displayed()
    driver.find_element(By.ID, "toggle-all").click()
    assert len(driver.find_elements(By.CSS_SELECTOR, ".sample[open]")) == 20


def test_filters_combine(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    for group, value in (("task", "calculation"), ("outcome", "malformed")):
        driver.find_element(By.CSS_SELECTOR, f"[data-filter={group}][data-value={value}]").click()
    shown = [card for card in driver.find_elements(By.CSS_SELECTOR, ".sample") if card.is_displayed()]
    assert shown
    for card in shown:
        assert (card.get_attribute("data-task"), card.get_attribute("data-outcome")) == ("calculation", "malformed")


def test_the_tooltip_follows_pointer_and_keys(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    plot = driver.find_element(By.CSS_SELECTOR, "#chart-accuracy .plot")
    tip = plot.find_element(By.CSS_SELECTOR, ".tip")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    assert not tip.is_displayed()
    ActionChains(driver).move_to_element(plot).perform()
    # The middle of steps 1 to 200 is 100.5.
    assert tip.text.splitlines()[0] in ("Step 100", "Step 101")
    assert "Multiple choice" in tip.text
    plot.send_keys(Keys.HOME)
    assert tip.text.startswith("Step 1\n")
    plot.send_keys(Keys.END)
    assert tip.text.startswith("Step 200\n")
    plot.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_a_missing_value_shows_as_a_dash(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    plot = driver.find_element(By.CSS_SELECTOR, "#chart-accuracy .plot")
    plot.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 6)
    # Open-ended questions are absent on every seventh step of the synthetic run.
    assert plot.find_element(By.CSS_SELECTOR, ".tip").text.replace("\n", " ").endswith("Open-ended –")


def test_samples_open_for_printing_and_close_again(driver: webdriver.Chrome, address: str) -> None:
    show(driver, address)
    count = "return document.querySelectorAll('.sample[open]').length"
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert driver.execute_script(count) == 20
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script(count) == 0
