"""A browser with the page of a report in it: Debian's Chromium, without a window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from vetrace_run import need

from scripts.chromium import DEADLINE, PACKAGES, chromium, open_page


class Page:
    """One page after the other in one browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, state: str = "") -> None:
        """Open a page anew, and wait until it is whole."""
        open_page(self.driver, path, state)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns; a promise is waited for."""
        told = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async (...given) => {{{script}}})(...[...arguments].slice(0, -1))"
            ".then(value => done([value, null]), error => done([null, String(error)]));",
            *arguments,
        )
        assert told[1] is None, told[1]
        return told[0]

    def until(self, script: str, *arguments: Any) -> Any:
        """Wait until a script returns something; return that."""
        return WebDriverWait(self.driver, DEADLINE, 0.02).until(
            lambda _: self.driver.execute_script(script, *arguments), script
        )

    def one(self, selector: str) -> WebElement:
        """Return the first element of a selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return all the text of an element, shown or not."""
        return str(self.one(selector).get_property("textContent"))

    def texts(self, selector: str) -> list[str]:
        """Return the texts of the elements of a selector."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return list(self.driver.execute_script(script, selector))

    def focused(self) -> str:
        """Return the id of the element that keys go to."""
        return str(self.driver.execute_script("return document.activeElement.id"))

    def complaints(self) -> list[str]:
        """Return what the browser has complained of since it was asked last."""
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # Chromium's own
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]


@contextmanager
def page_browser(columns: int = 1400, rows: int = 900) -> Iterator[Page]:
    """Run a browser of this size in pixels; skip the test where there is none, but in CI."""
    for program, package in PACKAGES.items():
        need(which(program) is not None, package)
    with chromium(columns, rows) as driver:
        yield Page(driver)
