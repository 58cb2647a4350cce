"""A real browser for tests of pages: headless Chromium, and axe-core for accessibility.

A test module says `pytest_plugins = ("tests.helpers.browser",)` and asks for the fixture
`open_page`.
Without `pip install 'dimo-cli[browser]'` and a Chromium (a package of the system, or
`playwright install chromium`) these tests are skipped.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = 1280, 390


@dataclass
class Visit:
    """An open page, and what happened on it so far."""

    page: Any
    requests: list[str] = field(default_factory=list)
    """Addresses that the page asked for beside itself."""
    errors: list[str] = field(default_factory=list)
    """Exceptions, and errors on the console; a breach of the page's own policy is one."""

    def inaccessible(self) -> list[str]:
        """Serious and critical findings of axe-core."""
        axe = pytest.importorskip(
            "axe_playwright_python.sync_playwright", reason="axe is not installed: extra `browser`"
        )
        found = axe.Axe().run(self.page).response["violations"]
        return [
            f"{item['id']}: {item['help']} ({node['html'][:200]})"
            for item in found
            if item["impact"] in ("serious", "critical")
            for node in item["nodes"]
        ]

    def is_wider_than_the_window(self) -> bool:
        """Whether the page as a whole scrolls sideways."""
        width = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        return bool(self.page.evaluate(width))


def assert_sound_with_all_opened(seen):
    """Accessible, no wider than its window, and of itself alone, with everything unfolded."""
    for details in seen.page.query_selector_all("details"):
        details.evaluate("box => { box.open = true }")
    assert seen.inaccessible() == []
    assert not seen.is_wider_than_the_window()
    assert seen.requests == []
    assert seen.errors == []


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; skips where there is none."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: extra `browser`"
    )
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, CHROMIUM)), None)
        if found is None and not Path(own).exists():
            pytest.skip("there is no Chromium: install it, or run `playwright install chromium`")
        running = playwright.chromium.launch(executable_path=found or own, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Open an address or a file at a window width, in light or dark colors."""
    contexts = []

    def visit(target, width=DESKTOP, dark=False, **settings):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            **settings,
        )
        contexts.append(context)
        seen = Visit(context.new_page())
        address = target.resolve().as_uri() if isinstance(target, Path) else target
        seen.page.on(
            "request",
            lambda request: (
                None
                if request.url == address or request.url.startswith(("data:", "blob:"))
                else seen.requests.append(request.url)
            ),
        )
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on(
            "console",
            lambda message: seen.errors.append(message.text) if message.type == "error" else None,
        )
        seen.page.goto(address)
        return seen

    yield visit
    for context in contexts:
        context.close()
