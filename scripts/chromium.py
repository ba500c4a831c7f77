"""Debian's Chromium without a window, and the page of a report in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.patience import patience

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DEADLINE = patience(200)  # seconds
PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
"""The Debian package of each program."""


@contextmanager
def chromium(columns: int = 1400, rows: int = 900) -> Iterator[Chrome]:
    """Run a browser of this size in pixels.

    Raises FileNotFoundError where Debian's is not there.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        raise FileNotFoundError(f"a page is opened by Debian's {' and '.join(missing)}")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # A page that is taken for hidden has no frames, and who waits for one waits for ever.
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
        f"--window-size={columns},{rows}",
    ):  # fmt: skip
        options.add_argument(argument)
    # The driver misses the end of one load in two hundred: the page itself tells when it is whole.
    options.page_load_strategy = "none"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        running.set_script_timeout(DEADLINE)
        # The driver's answer may take as long: 120 s are what Selenium waits by itself.
        running.command_executor.client_config.timeout = 2 * DEADLINE
        yield running
    finally:
        running.quit()


def open_page(driver: Chrome, page: Path, state: str = "") -> None:
    """Open a report anew at a state such as `#at=3`, and wait until it is whole.

    Raises RuntimeError where the page tells that it is broken, with its words, and TimeoutException
    where it does not get ready.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    turn = f"?{time.monotonic_ns()}"  # the page before may have had the same address
    driver.get(f"{page.resolve().as_uri()}{turn}{state}")
    script = "return location.search === arguments[0] && document.documentElement.dataset.ready"
    ready = WebDriverWait(driver, DEADLINE, 0.01).until(
        lambda _: driver.execute_script(script, turn), f"{page} does not get ready"
    )
    if ready != "true":
        raise RuntimeError(
            driver.execute_script("return document.querySelector('#wrong').textContent")
        )
