"""The curve explorer in headless Chromium: its numbers are those of the vectors, and a keyboard reaches all of it."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp, mpf

from chromium import findings_everywhere, needs_chromium
from shared_specs import load, textbook

os.environ["KERAS_BACKEND"] = "torch"  # both packages in one process, which TensorFlow and torch cannot share

PATH = Path(__file__).parents[2] / "docs/explorer/index.html"
LOSSES = json.loads(PATH.with_name("losses.js").read_text(encoding="utf-8").split("const LOSSES = ")[1].rstrip(";\n"))
BY_NAME = {loss["name"]: loss for loss in LOSSES}
CLOSE = 1e-6
SMALLEST = 1e-90  # what is smaller is 0 in the vectors

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def shared(browser):
    """A page for tests that only call its functions."""
    page = browser.new_page()
    page.goto(PATH.as_uri())
    yield page
    page.close()


def is_close(got, want):
    return np.abs(np.asarray(got) - want) <= CLOSE * np.abs(want) + SMALLEST


# ---- Numbers.


def log_odds(logits, label):
    """Log-odds of the label of each row."""
    relative = logits - logits.max(-1, keepdims=True)
    own = np.take_along_axis(relative, label[:, None], -1)[:, 0]
    others = np.where(np.arange(logits.shape[-1]) == label[:, None], -np.inf, relative)
    top = others.max(-1, keepdims=True)
    return own - (top[:, 0] + np.log(np.exp(others - top).sum(-1)))


def usable(case):
    """Whether the value of a case is a mean or sum of the curve alone: labels, finite logits, and own keywords."""
    own = {field["name"] for field in BY_NAME[case.loss]["fields"]} | {"reduction", "check_labels"}
    if case.expected is None or set(case.inputs) != {"logits", "target"} or not set(case.config) <= own:
        return False
    logits, target = case.inputs["logits"], case.inputs["target"]
    if not (logits.size and np.isfinite(logits).all() and case.expected.grad_logits.compared.all()):
        return False
    if BY_NAME[case.loss]["family"] == "binary":
        return logits.shape == target.shape and bool(np.isin(target, (0, 1)).all())
    return logits.ndim == 2 and logits.shape[1] > 1 and target.shape == logits.shape[:1] and target.dtype.kind == "i"


def question(case):
    """The rows of a case: log-odds and label of each, and the place of its logit."""
    logits, target = case.inputs["logits"], case.inputs["target"]
    if BY_NAME[case.loss]["family"] == "binary":
        label = target.ravel().astype(int)
        return np.where(label == 1, 1, -1) * logits.ravel(), label, np.arange(logits.size)
    return (
        log_odds(logits, target),
        np.ones_like(target),
        np.ravel_multi_index((np.arange(len(target)), target), logits.shape),
    )


@pytest.mark.parametrize("name", BY_NAME)
def test_numbers_are_those_of_the_vectors(name, shared):
    cases = [case for case in load.cases(name) if usable(case)]
    assert len(cases) >= 4
    for case in cases:
        m, label, place = question(case)
        config = {key: value for key, value in case.config.items() if key not in ("reduction", "check_labels")}
        rows = shared.evaluate(
            """([name, config, rows]) => rows.map(([m, label]) => {
              const [loss, slope] = evaluate(name, config, m, label);
              return [loss, gradient(name, slope, label, 10).own];
            })""",
            [name, config, list(zip(m.tolist(), label.tolist(), strict=True))],
        )
        losses, own = np.array(rows, float).T
        denominator = case.expected.denominator or 1.0
        want = case.expected.loss.data
        got = losses.reshape(want.shape) if case.config.get("reduction") == "none" else losses.sum() / denominator
        assert is_close(got, want).all(), (case.id, got, want)
        wanted_own = case.expected.grad_logits.data.ravel()[place]
        assert is_close(own / denominator, wanted_own).all(), (case.id, own / denominator, wanted_own)


CONFIGS = {
    "focal": [{"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 2.0}, {"gamma": 7.5}, {"gamma": "flsd53"}],
    "poly": [{"epsilon": -1.0}, {"epsilon": -0.5}, {"epsilon": 6.0}],
    "generalized": [{"q": 0.001}, {"q": 0.7}, {"q": 1.0}, {"q": 0.4, "truncate_at": 0.3}],
    "symmetric": [{}, {"alpha": 0.0}, {"alpha": 6.0, "beta": 0.1, "log_zero": -9.21}],
    "taylor": [{"order": 1}, {"order": 2}, {"order": 9}],
    "label_relaxation": [{"alpha": 0.01}, {"alpha": 0.1}, {"alpha": 0.9}],
}
PLACES = [
    -30.1,
    -8.3,
    -4.02,
    -1.1,
    -0.3,
    0.0,
    0.45,
    1.7,
    2.19721,
    3.9,
    8.1,
    20.3,
    36.9,
]  # log(9) = 2.19722 is the end of a curve


@pytest.mark.parametrize("name", [name for name in BY_NAME if name in textbook.CURVES])
def test_numbers_are_those_of_the_textbook(name, shared):
    curve = textbook.CURVES[name]
    for config in CONFIGS.get(BY_NAME[name]["curve"], [{}]):
        with mp.workdps(60):
            exact = {key: mpf(value) if isinstance(value, float) else value for key, value in config.items()}

            def of(m, exact=exact):
                return curve(1 / (1 + mp.exp(-m)), 1 / (1 + mp.exp(m)), **exact)

            step = mpf(10) ** -20
            want = [(float(of(mpf(m))), float((of(m + step) - of(m - step)) / (2 * step))) for m in PLACES]
        got = shared.evaluate(
            "([name, config, places]) => places.map((m) => evaluate(name, config, m))", [name, config, PLACES]
        )
        assert is_close(got, np.array(want)).all(), (config, got, want)


VALUES = [-10, -2, -1.5, -1, -0.5, 0, 1e-7, 0.3, 0.5, 0.9999, 1, 1.5, 2, 3, 40, None, True, "flsd53", "no"]


@pytest.mark.parametrize("name", BY_NAME)
def test_fields_accept_what_the_package_accepts(name, shared):
    import lightning_xent

    loss_class = getattr(lightning_xent, name)
    for field in BY_NAME[name]["fields"]:
        assert getattr(loss_class(), field["name"]) == field["default"]
        for value in VALUES:
            try:
                loss_class(**{field["name"]: value})
                is_right = True
            except ValueError:
                is_right = False
            found = shared.evaluate("([field, value]) => fault(field, value)", [field, value])
            assert (found == "") == is_right, (field["name"], value, found)


# ---- The page.

FOCAL = "#loss=CategoricalFocalCrossEntropy:gamma=3.5"


def state_of(page):
    """What the page shows: lines and numbers."""
    return page.evaluate(
        """() => [state, document.querySelector("#readout").innerText, document.querySelector("#numbers").textContent,
          [...document.querySelectorAll("input, #reach")].map((each) => [each.type, each.value, each.checked])]"""
    )


def address_of(page):
    page.wait_for_function("location.hash === address(state)")  # it follows the state a moment later
    return page.evaluate("location.hash")


def test_the_address_reproduces_the_view(visit):
    page = visit(PATH)
    page.select_option("#which", "BinaryFocalCrossEntropy")
    page.click("#add")
    card = page.locator(".card").last
    card.get_by_label("gamma", exact=True).fill("3.25")
    card.locator(".field", has_text="alpha").get_by_label("None").uncheck()
    card.get_by_label("alpha", exact=True).fill("0.25")
    card.get_by_label("Label 0").check(force=True)
    page.get_by_label("Gradient", exact=True).check(force=True)
    page.get_by_label("Probability", exact=True).check(force=True)
    page.get_by_label("Classes").fill("1000")
    page.locator("#cursor").fill("0.25")
    address = address_of(page)
    assert "BinaryFocalCrossEntropy:gamma=3.25,alpha=0.25,label=0" in address
    first = state_of(page)
    assert state_of(visit(PATH, address)) == first
    page.evaluate("location.hash = ''")
    page.wait_for_function("state.classes != 1000")
    assert state_of(page) != first
    page.evaluate("(hash) => { location.hash = hash; }", address)
    page.wait_for_function("state.classes == 1000")
    assert state_of(page) == first


def test_what_a_link_has_too_much_is_said(visit):
    page = visit(PATH, "#loss=NoSuchLoss&loss=BinaryPolyCrossEntropy:epsilon=-3,order=2&reach=7")
    said = page.locator("#left-out").inner_text()
    assert all(word in said for word in ("NoSuchLoss", "epsilon=-3", "order=2", "reach=7"))
    assert page.locator(".card h3").all_inner_texts() == ["BinaryPolyCrossEntropy"]


def test_a_value_out_of_range_is_refused_and_explained(visit):
    page = visit(PATH, FOCAL)
    field = page.get_by_label("gamma", exact=True)
    field.fill("-1")
    assert "gamma must be a number in [0, inf), got -1" in page.locator(".fault").inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert page.evaluate("state.lines[0].config.gamma") == 3.5
    field.fill("1")
    assert page.locator(".fault").inner_text() == "" and page.evaluate("state.lines[0].config.gamma") == 1


def test_the_keyboard_alone_is_enough(visit):
    page = visit(PATH, FOCAL)
    page.locator("#cursor").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.at") == pytest.approx(0.05)
    assert "m = 0.05" in page.locator("#readout caption").inner_text()
    assert "CategoricalFocalCrossEntropy" in page.locator("#cursor").get_attribute("aria-valuetext")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if reached[-1] == "which":
            page.keyboard.type("BinaryTaylor")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            break
    added = "BinaryTaylorCrossEntropy"
    assert page.evaluate("state.lines.map((line) => line.loss)")[1] == added
    assert page.evaluate("document.activeElement.closest('.card').querySelector('h3').textContent.trim()") == added
    page.keyboard.press("ArrowUp")
    assert page.evaluate("state.lines[1].config.order") == 3
    remove = page.get_by_role("button", name=f"Remove {added}")
    remove.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("state.lines.length") == 1
    assert page.evaluate("document.activeElement.id") == "which"


def test_the_pointer_moves_the_cursor(visit):
    page = visit(PATH, FOCAL)
    box = page.locator("#upper svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 18, box["y"] + 50)
    assert page.evaluate("state.at") == pytest.approx(6, abs=0.02)


def test_the_table_has_the_numbers(visit):
    page = visit(PATH, "#loss=BinaryCrossEntropy")
    page.click("details.numbers summary")
    cells = page.locator("#numbers tbody tr").first.locator("th, td").all_inner_texts()
    m, p, loss, slope = (float(text.replace("\u2212", "-")) for text in cells)
    assert (m, loss) == (-6, pytest.approx(6.002476, abs=1e-6))
    assert p == pytest.approx(0.002472623, rel=1e-6) and slope == pytest.approx(-0.9975274, rel=1e-6)


def test_seven_lines_are_too_many(visit):
    page = visit(PATH)
    for _ in range(3):
        page.click("#add")
    assert page.locator(".card").count() == 6 and page.locator("#add").is_disabled()
    dashes = page.evaluate(
        """() => [...document.querySelectorAll("#upper .curve")].map(
          (line) => getComputedStyle(line).strokeDasharray)"""
    )
    assert len(set(dashes)) == 6  # colours are not all that tells them apart


CHANGES = {
    "gamma": 3.0,
    "alpha": 0.2,
    "q": 1e-7,
    "truncate_at": 0.25,
    "epsilon": -0.5,
    "beta": 3.0,
    "log_zero": -9.21,
    "order": 5,
    "gamma_pos": 1.0,
    "gamma_neg": 2.0,
    "margin": 0.1,
    "detach_modulator": True,
}


@pytest.mark.parametrize("name", [*BY_NAME, "BinaryFocalCrossEntropy:flsd53"])
def test_what_is_copied_builds_the_loss(name, visit):
    import yaml

    import keras_xent
    import lightning_xent

    name, _, word = name.partition(":")
    config = {field["name"]: word or CHANGES[field["name"]] for field in BY_NAME[name]["fields"]}
    config = {"gamma": word} if word else config
    keywords = ",".join(f"{key}={str(value).lower()}" for key, value in config.items())
    page = visit(PATH, f"#loss={name}:{keywords}")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    copied = {}
    for kind in ("Keras line", "Lightning YAML", "JSON spec"):
        page.get_by_label(kind, exact=True).check(force=True)
        page.get_by_role("button", name=f"Copy the {kind} of {name}").click()
        page.wait_for_function("window.copied")
        copied[kind] = page.evaluate("[copied, window.copied = null][0]")
        assert copied[kind] in page.locator("#status").text_content()
    assert eval(copied["Keras line"]).get_config() == config
    described = yaml.safe_load(copied["Lightning YAML"])["loss"]
    package, class_name = described["class_path"].split(".")
    assert package == "lightning_xent"
    assert getattr(lightning_xent, class_name)(**described.get("init_args", {})).get_config() == config
    for package in (keras_xent, lightning_xent):
        loss = package.get(json.loads(copied["JSON spec"]))
        assert type(loss).__name__ == name and loss.get_config() == config


def test_copying_works_without_access_to_the_clipboard(visit):
    page = visit(PATH, FOCAL)
    page.evaluate(
        """() => {
          navigator.clipboard.writeText = async () => { throw new Error("not allowed"); };
          document.execCommand = () => { window.copied = document.activeElement.value; };
        }"""
    )
    page.get_by_role("button", name=re.compile("Keras line")).click()
    page.wait_for_function("window.copied")
    assert page.evaluate("copied") == "keras_xent.CategoricalFocalCrossEntropy(gamma=3.5)"


STATES = {
    "start": "",
    "six lines": "#" + "&".join(f"loss={name}" for name in list(BY_NAME)[:6]) + "&lower=gradient&axis=probability",
    "words": "#loss=BinaryFocalCrossEntropy:gamma=flsd53&loss=AsymmetricLoss:label=0&lower=gradient&reach=40",
}


@pytest.mark.parametrize("name", STATES)
def test_axe_finds_nothing(name, visit):
    page = visit(PATH, STATES[name])
    page.click("details.numbers summary")
    if name == "words":
        page.get_by_label("margin", exact=True).fill("2")
    assert findings_everywhere(page) == []


def test_colours_are_those_that_the_documentation_keeps(visit):
    page = visit(PATH)
    for theme in ("light", "dark", "auto"):
        page.click("#theme")
        assert page.evaluate("localStorage.theme") == theme
        assert page.locator("#theme").get_attribute("aria-label") == f"Colours: {theme}"
    page.click("#theme")
    page.click("#theme")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"
