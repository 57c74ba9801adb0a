"""The documentation site: `tox run -e docs` builds it into docs/_build/html.

Its source folder is the repository, so that the links between pages hold there too. The first page is README.md.
"""

import inspect
import os
import re
import shutil
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference

# Both packages are imported in one process, which TensorFlow and torch cannot share.
os.environ["KERAS_BACKEND"] = "torch"

# The kernels of the notebooks inherit these. They read the packages from this folder too; and threads that contend with
# other programs for two cores made them 20 times slower.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
os.environ["OMP_NUM_THREADS"] = "1"

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTENTS = {"README": "contents.txt", "docs/losses": "losses/contents.txt"}
"""Pages with contents of the site below their text, which a repository shows without them."""
BESIDE = ("pages", "explorer", "conformance")
"""Folders of pages that Sphinx does not make: they stand in the site where they stand in the repository."""

project = "xent"
author = "The xent authors"
project_copyright = "2026, the xent authors"
version = release = PROJECT["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += ["sphinx-mathjax-offline"]  # the scripts that draw formulas are part of the site, which needs no network
root_doc = "README"
include_patterns = ["*.md", "docs/**", "demo/README.md", "benchmarks/*.md", "tests/README.md", "shared_specs/README.md"]
exclude_patterns = ["docs/_build", "docs/_templates", "docs/README.md"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_show_tb = True
nb_execution_timeout = 300  # seconds a cell; a busy machine is five times slower
nb_execution_excludepatterns = ["docs/notebooks/index.md"]
nb_merge_streams = True
nb_output_stderr = "warn"  # warnings of the build are errors

default_role = "code"
autodoc_member_order = "groupwise"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"xent {release}"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["custom.css"]
# The first page of the site is README.html; index.html leads there.
html_additional_pages = {"index": "first_page.html"}


def add_contents(app, docname, source):
    """The contents of the site, after the text of their page."""
    if docname in CONTENTS:
        source[0] += (Path(__file__).parent / CONTENTS[docname]).read_text(encoding="utf-8")


def escape_formulas(app, what, name, obj, options, lines):
    """Docstrings are plain text: between names in backticks, the signs of formulas are not markup."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[number] = "`".join(parts)


def mend_page(app, pagename, templatename, context, doctree):
    """Code in the text may break between its words, so that tables fit a phone; an empty cell heads no column."""
    place = r"(?<=[a-z0-9])(?=[A-Z])|(?<=\w\w_)(?=\w)|(?<=[(=,/])(?=\w)|(?<=\w\.)(?=[A-Za-z])"
    if "body" in context:
        body = context["body"].replace('<th class="head"><p></p></th>', "<td></td>")
        context["body"] = re.sub(r'(?<=<span class="pre">)[^<]+', lambda code: re.sub(place, "<wbr>", code[0]), body)


def link_pages_beside(app, doctree):
    """A link to a page that Sphinx does not make leads to it, and not to a copy that is downloaded."""
    for node in list(doctree.findall(download_reference)):
        if node["reftarget"].endswith(".html"):
            node.replace_self(nodes.reference("", "", *node.children, refuri=node["reftarget"]))


def copy_pages_beside(app, exception):
    """Copy the pages that Sphinx does not make. Their links to Markdown lead to the pages that are made of it."""
    if exception is not None or app.builder.format != "html":
        return
    for folder in BESIDE:
        copied = app.outdir / "docs" / folder
        shutil.copytree(Path(__file__).parent / folder, copied, dirs_exist_ok=True)
        for path in [*copied.glob("*.html"), *copied.glob("*.js")]:
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r"\.md(?=[\"#])", ".html", text), encoding="utf-8")


def keywords_of_class(app, what, name, obj, options, signature, return_annotation):
    """The parameters of a class are those of its constructor, not of a `__new__` that passes them on."""
    if what != "class" or signature != "(*positional, **keywords)":
        return None
    found = inspect.signature(obj)
    parameters = [item.replace(annotation=item.empty) for item in found.parameters.values()]
    return str(found.replace(parameters=parameters, return_annotation=found.empty)), return_annotation


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("doctree-read", link_pages_beside, priority=100)  # before Sphinx collects what is downloaded
    app.connect("autodoc-process-signature", keywords_of_class)
    app.connect("autodoc-process-docstring", escape_formulas, priority=400)  # before napoleon reads them
    app.connect("html-page-context", mend_page)
    app.connect("build-finished", copy_pages_beside)
