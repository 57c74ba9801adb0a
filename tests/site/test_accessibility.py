"""Every page of the built site passes axe-core in headless Chromium: light and dark, wide and on a phone.

`tox run -e docs` builds the site and runs this. Without Chromium or Chrome it is skipped.
"""

import os
import re
from pathlib import Path

import pytest

from chromium import WIDTHS, findings, needs_chromium, resize

SITE = Path(os.environ.get("XENT_SITE", Path(__file__).parents[2] / "docs/_build/html")).resolve()
# index.html leads to README.html at once. The listings of modules have one markup: three of them.
PAGES = sorted({path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html")} - {"index.html"})
LISTINGS = [page for page in PAGES if page.startswith("_modules/")]
PAGES = [page for page in PAGES if page not in LISTINGS[3:]]
# axe takes minutes for pages whose entries, rows or code all have the same markup: there it reads the first ones.
MANY_ELEMENTS = 2_000
KEEP_FIRST_ENTRIES = """
const rest = (elements, count) => [...elements].slice(count).forEach(element => element.remove());
rest(document.querySelectorAll("section > dl.py"), 3);
for (const entry of document.querySelectorAll("section > dl.py")) rest(entry.querySelectorAll("dl.py"), 3);
rest(document.querySelectorAll(".toc-drawer li"), 50);
rest(document.querySelectorAll("table.indextable li"), 50);
for (const table of document.querySelectorAll("tbody")) rest(table.rows, 10);
rest(document.querySelectorAll("article div.highlight"), 10);
"""
# Elements that stick out of the window, unless a box around them scrolls; then pictures that are not there.
BROKEN = """
() => {
  const scrolls = element => element.tagName != "ARTICLE" &&
    (["auto", "scroll"].includes(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  const wide = [...document.querySelectorAll("article *")].filter(
    element => element.getBoundingClientRect().right > window.innerWidth + 1 && !scrolls(element));
  const missing = [...document.images].filter(image => image.complete && !image.naturalWidth);
  return [...wide.slice(0, 3).map(element => "wider than the window: " + element.outerHTML.slice(0, 150)),
    ...missing.map(image => "no such picture: " + image.src)];
}
"""
# Contrast takes most of the time. On a phone, only what is on every page has colours of its own: one page is enough.
CONTRAST = {"runOnly": ["color-contrast"]}
RUNS = [
    ("wide", "light", {}),
    ("wide", "dark", CONTRAST),
    ("phone", "light", {"rules": {"color-contrast": {"enabled": False}}}),
    ("phone", "light", CONTRAST),
    ("phone", "dark", CONTRAST),
]

pytestmark = needs_chromium


@pytest.fixture(scope="session")
def page(browser):
    page = browser.new_page()
    # The formulas' program is on another server, which is not part of the test.
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    yield page
    page.close()


def test_the_site_is_built():
    assert "README.html" in PAGES, f"no site in {SITE}: tox run -e docs"


@pytest.mark.parametrize("folder", ["explorer", "conformance"])
def test_links_of_pages_that_sphinx_does_not_make_lead_somewhere(folder):
    there = SITE / "docs" / folder
    text = "".join(path.read_text(encoding="utf-8") for path in there.iterdir() if path.suffix in (".html", ".js"))
    links = set(re.findall(r'(?:href=|src=|"page": )"([^"#]+)(?:#([^"]*))?"', text))
    links |= {("../divergences.html", heading) for heading in re.findall(r'"explained":"([^"]*)"', text)}
    assert len(links) > 5
    for path, heading in sorted(links):
        target = there / path
        assert target.is_file(), path
        assert not heading or f'id="{heading}"' in target.read_text(encoding="utf-8"), f"{path}#{heading}"


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(name, page):
    page.goto((SITE / name).as_uri())
    found = {}
    for width in WIDTHS:
        resize(page, width)
        found[width, "layout"] = page.evaluate(BROKEN)
    if page.evaluate("document.querySelectorAll('*').length") > MANY_ELEMENTS:
        page.evaluate(KEEP_FIRST_ENTRIES)
    for width, scheme, options in RUNS if name == "README.html" else RUNS[:3]:
        resize(page, width)
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found[width, scheme, *options] = findings(page, options)
    assert not any(found.values()), "\n".join(f"{where}: {text}" for where, texts in found.items() for text in texts)
