"""What the tests of the documentation site share: the browser, and what axe finds in a page."""

import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTHS = {"wide": (1280, 900), "phone": (390, 844)}
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome: apt-get install chromium")


def resize(page, width):
    pixels, height = WIDTHS[width]
    page.set_viewport_size({"width": pixels, "height": height})


def findings(page, options=None):
    """What axe finds: rule, what it says, and the first elements."""
    response = Axe().run(page, options={"resultTypes": ["violations"]} | (options or {})).response
    assert response["passes"], "axe has not looked at anything"
    return [
        f"{found['id']}: {found['help']}: {len(found['nodes'])}, as {node['html'][:150]} {node['failureSummary'][:300]}"
        for found in response["violations"]
        for node in found["nodes"][:3]
    ]


def findings_everywhere(page):
    """What axe finds in a page, light and dark, wide and on a phone, and whether a window of 360 pixels holds it."""
    found = []
    for width in WIDTHS:
        resize(page, width)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found += [f"{width}, {scheme}: {text}" for text in findings(page)]
    page.set_viewport_size({"width": 360, "height": 640})
    wide = page.evaluate("document.documentElement.scrollWidth")
    return found + ([f"{wide} pixels wide in a window of 360"] if wide > 360 else [])
