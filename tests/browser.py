"""A real headless browser, for what a parser cannot see: layout, colours, scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}; apt-get install chromium chromium-driver"),
]

# Contrast as WCAG 2 defines it, of every element that carries text of its own, against the backgrounds below it.
CONTRAST = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
    if (a === 1) return [r, g, b];
    if (a !== 0) throw new Error("a half transparent background is not measured here");
  }
  return [255, 255, 255];
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const box = element.getBoundingClientRect();
  if (!own || box.width === 0 || element.closest("script, style, title, desc")) continue;
  const style = getComputedStyle(element);
  const colour = channels(element instanceof SVGElement ? style.fill : style.color).slice(0, 3);
  const [low, high] = [luminance(colour), luminance(background(element))].sort((a, b) => a - b);
  found.push([element.tagName + "." + (element.getAttribute("class") || ""), (high + 0.05) / (low + 0.05)]);
}
return found;
"""
# Labels of charts that leave their card or lie over one another.
OVERLAPS = """
const hits = [];
for (const canvas of document.querySelectorAll("svg.canvas")) {
  const card = canvas.closest("figure").getBoundingClientRect();
  const boxes = [...canvas.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
  boxes.forEach(([text, a], index) => {
    if (a.left < card.left || a.right > card.right) hits.push(text + " leaves its card");
    for (const [other, b] of boxes.slice(index + 1)) {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        hits.push(canvas.parentElement.parentElement.id + ": " + text + " over " + other);
    }
  });
}
return hits;
"""


@contextmanager
def browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with an empty profile, closed at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def show(driver: webdriver.Chrome, address: str, *, scheme: str = "light", width: int = 1280) -> None:
    """Opens a page as somebody with that colour scheme and width sees it."""
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get_log("browser")
    driver.get(address)


def open_everything(driver: webdriver.Chrome) -> None:
    """Opens all that a click would."""
    driver.execute_script("for (const card of document.querySelectorAll('details')) card.open = true")
