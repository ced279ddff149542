"""The dashboard in the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest
from running import PATIENCE_S

CHROMIUM = shutil.which("chromium")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

NO_SCROLL = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def page(of, **options):
    """A page that fails its test for any error of a script of ours."""
    context = of.new_context(**{"viewport": {"width": 1240, "height": 900}, **options})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_S * 1000)
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield opened
        assert errors == []
    finally:
        context.close()
