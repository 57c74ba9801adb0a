"""The conformance page in headless Chromium: filters, links to cells and cases, and the keyboard."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

import made_results
from chromium import findings_everywhere, needs_chromium
from shared_specs.conformance import page as program

DOCS = Path(__file__).parents[2] / "docs"
WRONG = "#cell=timm,tails"
CASE = "#case=timm,categorical-cross-entropy/wrong-tail"

pytestmark = needs_chromium


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    """The page of made results, beside the files that it needs."""
    docs = tmp_path_factory.mktemp("docs")
    for folder in ("conformance", "pages"):
        shutil.copytree(DOCS / folder, docs / folder)
    made_results.write(docs)
    assert program.main(["--docs", str(docs)]) == 0
    return docs / "conformance/index.html"


def shown(page):
    """The names of the columns and rows that are shown."""
    return page.evaluate(
        """() => ["#matrix thead th", "#matrix tbody tr[data-name]"].map((names) =>
          [...document.querySelectorAll(names)].filter((each) => each.checkVisibility())
            .map((each) => each.dataset.name))"""
    )


def title(page):
    return page.locator("#cell-title").inner_text()


ALL = [
    ["lightning_xent", "timm", "optax", "scikit-learn"],
    [*map(program.anchor, made_results.FEATURES + made_results.LOSSES)],
]


def test_our_libraries_are_first_and_cells_have_outcome_and_error(visit, path):
    page = visit(path)
    assert shown(page) == ALL
    cells = page.locator("tr[data-name=tails] td").all_text_contents()
    assert cells == ["equal0.25", "wrong1e6", "equal0.25", "not offered"]
    assert page.locator("tr[data-name=soft-targets] td").all_text_contents()[1:3] == ["not offered", "equal0"]


FILTERS = {
    "feature": ({"#feature": "smooth"}, [ALL[0], ["label-smoothing"]], "feature=smooth"),
    "loss": ({"#feature": "binary cross"}, [ALL[0], ["binarycrossentropy"]], "feature=binary%20cross"),
    "library": ({"#library": "timm"}, [["timm"], ALL[1]], "library=timm"),
    "ours": ({"#library": "ours"}, [["lightning_xent"], ALL[1]], "library=ours"),
    "both": ({"#library": "others", "#feature": "tails"}, [ALL[0][1:], ["tails"]], "feature=tails&library=others"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_leave_rows_and_columns_and_are_in_the_address(name, visit, path):
    values, wanted, address = FILTERS[name]
    page = visit(path)
    for selector, value in values.items():
        page.select_option(selector, value) if selector == "#library" else page.fill(selector, value)
    assert shown(page) == wanted
    assert page.evaluate("location.hash") == f"#{address}"
    assert shown(visit(path, f"#{address}")) == wanted


def test_only_differences(visit, path):
    page = visit(path)
    page.check("#off")
    assert shown(page)[1] == ["class-indices", "tails", "categoricalcrossentropy"]
    page.select_option("#library", "optax")
    assert shown(page) == [[], []] and page.locator("#none").is_visible()
    page.get_by_role("link", name="Show all").click()
    expect(page.locator("#none")).to_be_hidden()  # a link is followed after its click
    assert shown(page) == ALL


def test_a_cell_opens_and_its_address_opens_it_again(visit, path):
    page = visit(path)
    page.locator("tr[data-name=tails] td a").nth(1).click()
    assert page.evaluate("location.hash") == WRONG
    for each in (page, visit(path, WRONG)):
        assert title(each) == "timm 1.2.3: tails"
        text = each.locator("#cell-content").inner_text()
        for part in ("1 case wrong", "3 cases equal", "categorical-cross-entropy/wrong-tail", "70, 0", "1e-30", "NaN"):
            assert part in text, part
    page.click("#close")
    page.wait_for_function("location.hash === ''")
    assert not page.locator("dialog").is_visible()


def test_a_cell_names_its_conventions_and_reasons(visit, path):
    page = visit(path, "#cell=timm,class-indices")
    assert "mean divides by the sum of the <target> weights" in page.locator("#cell-content").inner_text()
    assert page.locator(".case").count() == 3  # the wrong one first
    assert page.locator(".case summary").first.inner_text() == "categorical-cross-entropy/wrong-tail"
    page.evaluate("location.hash = '#cell=timm,soft-targets'")
    page.wait_for_function("document.querySelector('#cell-title').textContent.endsWith('soft targets')")
    assert "targets are indices" in page.locator("#cell-content").inner_text()


def test_a_case_has_an_address(visit, path):
    page = visit(path, CASE)
    assert title(page) == "timm 1.2.3"
    assert page.locator(".case").count() == 1 and page.locator(".case pre").first.is_visible()
    cause = page.locator(".case").get_by_role("link", name="Divergences").get_attribute("href")
    assert cause == "../divergences.md#the-tail-is-lost"
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    for label, wanted in (
        ("Copy the link", path.as_uri() + CASE),
        ("Copy the command", "xent run timm --cases categorical-cross-entropy/wrong-tail"),
    ):
        page.get_by_role("button", name=label).click()
        page.wait_for_function("window.copied")
        assert page.evaluate("[copied, window.copied = null][0]") == wanted


def test_what_no_cell_has_is_said(visit, path):
    page = visit(path, "#cell=timm,no-such-feature")
    assert title(page) == "No such result" and "no-such-feature" in page.locator("#cell-content").inner_text()


def test_the_keyboard_alone_is_enough(visit, path):
    page = visit(path)
    page.locator(".matrix").focus()
    page.keyboard.press("Tab")
    for key, wanted in (
        ("", "#cell=lightning_xent,class-indices"),
        ("ArrowDown", "#cell=lightning_xent,soft-targets"),
        ("ArrowRight", "#cell=timm,soft-targets"),
        ("End", "#cell=scikit-learn,soft-targets"),
        ("ArrowRight", "#cell=scikit-learn,soft-targets"),
        ("Home", "#cell=lightning_xent,soft-targets"),
        ("ArrowUp", "#cell=lightning_xent,class-indices"),
        ("ArrowRight", "#cell=timm,class-indices"),
    ):
        if key:
            page.keyboard.press(key)
        assert page.evaluate("document.activeElement.hash") == wanted, key
    page.keyboard.press("Enter")
    assert title(page) == "timm 1.2.3: class indices"
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.hash") == "#cell=timm,class-indices"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#matrix')") is None  # one stop, not one a cell


def test_heads_stay_in_view(visit, path):
    page = visit(path, viewport={"width": 360, "height": 480})
    page.evaluate("document.querySelector('.matrix').scrollTo(1000, 1000)")
    box = page.locator(".matrix").bounding_box()
    row, column = page.locator("#matrix tbody tr").last.locator("th"), page.locator("#matrix thead th").last
    assert row.bounding_box()["x"] == pytest.approx(box["x"], abs=2)
    assert column.bounding_box()["y"] == pytest.approx(box["y"], abs=2)


@pytest.mark.parametrize("address", ["", WRONG, CASE, "#library=timm"])
def test_axe_finds_nothing(address, visit, path):
    assert findings_everywhere(visit(path, address)) == []


def test_the_matrix_is_there_without_programs(visit, path):
    page = visit(path, java_script_enabled=False)
    assert page.locator("#matrix tbody td a").count() == 4 * 7
    assert page.locator("noscript").first.inner_text()


def test_the_real_page_opens_every_failing_case(visit):
    page = visit(DOCS / "conformance/index.html")
    missing = page.evaluate(
        """() => targets.flatMap((target) => target.failing.filter((found) => !found.loss || !found.features)
          .map((found) => `${target.target} ${found.id}`))"""
    )
    assert missing == []
    for name, index in page.evaluate(
        """() => targets.flatMap((target) =>
          target.failing.slice(0, 3).map((found) => [anchor(target.target), found.id]))"""
    ):
        page.evaluate("(hash) => { location.hash = hash; }", f"case={name},{index}")
        page.wait_for_function("(id) => document.querySelector('.case summary')?.textContent === id", arg=index)
