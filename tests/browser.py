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
