"""The wheel and the sdist, as a user gets them: what is in them, and what they do in clean environments.

They run in the tox environment `release`, which builds both (XENT_DIST).
"""

import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIST = Path(os.environ["XENT_DIST"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]
PACKAGES = ("keras_xent", "lightning_xent", "shared_specs")
WHEEL = DIST / f"crossent-{VERSION}-py3-none-any.whl"
SDIST = DIST / f"crossent-{VERSION}.tar.gz"
COMMANDS = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "shared_specs").rglob("*.py")
    if path.name != "__main__.py" and '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def files_of_repository(*folders):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def block_of_readme(package):
    """The Python block that imports a package, and the number that it says it prints."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if f"import {package}" in block)
    return block, re.search(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE)[1]


@pytest.fixture
def environment(tmp_path):
    """A clean virtual environment, with its `install` and its `python`. It sees nothing of this folder."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    interpreter = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XENT_", "KERAS_"))
    }
    folder = tmp_path / "work"
    folder.mkdir()

    class Environment:
        def install(self, *requirements):
            pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-compile"]
            subprocess.run([*pip, "-c", ROOT / "constraints.txt", *requirements], check=True, env=variables)

        def python(self, *arguments, **more):
            command = [interpreter, "-I", *arguments]
            run = subprocess.run(command, cwd=folder, env=variables | more, capture_output=True, text=True)
            assert run.returncode == 0, f"{arguments}:\n{run.stdout}\n{run.stderr}"
            return run.stdout.splitlines()

    yield Environment()
    shutil.rmtree(tmp_path)  # up to 1.5 GB


# ---- What is in the files.


def test_wheel_has_the_files_of_the_packages_and_no_others():
    with zipfile.ZipFile(WHEEL) as wheel:
        names = set(wheel.namelist())
    metadata = {name for name in names if name.startswith(f"crossent-{VERSION}.dist-info/")}
    assert names - metadata == set(files_of_repository(*PACKAGES))
    assert f"crossent-{VERSION}.dist-info/licenses/LICENSE" in metadata
    assert {"keras_xent/py.typed", "lightning_xent/py.typed"} <= names
    assert sum(name.startswith("shared_specs/cases/") for name in names) == len(
        list((ROOT / "shared_specs/cases").glob("*.json"))
    )


def test_sdist_has_what_the_tests_need_and_nothing_that_git_ignores():
    with tarfile.open(SDIST) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names - {"PKG-INFO"} <= set(files_of_repository())
    needed = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "tox.ini", "constraints.txt"}
    assert needed | set(files_of_repository("tests", *PACKAGES)) <= names


def test_sdist_makes_the_wheel_that_the_checkout_makes():
    assert (DIST / "from_checkout" / WHEEL.name).read_bytes() == WHEEL.read_bytes()


def test_metadata_is_complete():
    with zipfile.ZipFile(WHEEL) as wheel:
        fields = email.message_from_bytes(wheel.read(f"crossent-{VERSION}.dist-info/METADATA"))
    assert fields["License-Expression"] == "Apache-2.0"
    assert set(fields.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    # Nothing is installed that was not asked for.
    assert all("extra ==" in requirement for requirement in fields.get_all("Requires-Dist"))


def test_citation_and_readme_have_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, flags=re.MULTILINE)[1] == VERSION
    assert WHEEL.name in (ROOT / "README.md").read_text(encoding="utf-8")


# ---- What they do. One framework an environment: the others must not be there, so an import of them would fail.

# Imports every module of a package, and prints those that lack something else than what is named in the arguments.
EVERY_MODULE = """
import importlib, importlib.metadata, pkgutil, sys
package, version, *absent = sys.argv[1:]
top = importlib.import_module(package)
assert importlib.metadata.version("crossent") == version
assert getattr(top, "__version__", version) == version, top.__version__
count = 0
for module in pkgutil.walk_packages(top.__path__, package + "."):
    parts = module.name.split(".")
    if parts[1] == "conformance" and parts[2:3] and parts[2] in ("adapters", "frameworks", "trainers", "pytest_plugin"):
        continue  # each imports the library that it is for
    try:
        importlib.import_module(module.name)
        count += 1
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in absent:
            raise
assert count > 5
loaded = {name.partition(".")[0] for name in sys.modules} & {*absent, "keras_xent", "lightning_xent"} - {package}
assert not loaded, loaded
"""
# Whether any of the modules in the arguments could be imported.
ABSENT = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"

SIDES = {
    "keras": (
        "keras_xent",
        ["jax"],
        ["tensorflow", "torch", "lightning", "pytorch_lightning"],
        {"KERAS_BACKEND": "jax"},
    ),
    "lightning": ("lightning_xent", [], ["keras", "tensorflow", "jax", "lightning", "triton"], {}),
}


@pytest.mark.parametrize("extra", SIDES)
def test_one_framework_is_enough(extra, environment):
    package, more, absent, variables = SIDES[extra]
    environment.install(f"{WHEEL}[{extra}]", *more)
    if extra == "lightning" and environment.python("-c", ABSENT, "triton") == ["['triton']"]:
        absent = [name for name in absent if name != "triton"]  # torch for CUDA brings it
    assert environment.python("-c", ABSENT, *absent) == ["[]"]
    environment.python("-c", EVERY_MODULE, package, VERSION, *absent, **variables)
    block, number = block_of_readme(package)
    assert environment.python("-c", block, **variables)[-1] == number


def test_vectors_and_their_commands_need_no_framework(environment, tmp_path):
    frameworks = ["keras", "torch", "jax", "tensorflow"]
    environment.install(WHEEL)
    assert environment.python("-c", ABSENT, *frameworks, "numpy", "mpmath") == ["[]"]
    read = (
        "import importlib.resources, json\n"
        "folder = importlib.resources.files('shared_specs') / 'cases'\n"
        "files = [json.loads(path.read_text(encoding='utf-8')) for path in folder.iterdir()]\n"
        "print(sum(len(file['cases']) for file in files))"
    )
    (count,) = environment.python("-c", read)

    environment.install(f"{WHEEL}[specs]")
    assert environment.python("-c", ABSENT, *frameworks) == ["[]"]
    environment.python("-c", EVERY_MODULE, "shared_specs", VERSION, *frameworks, "click")
    assert environment.python("-c", "import shared_specs.load as load; print(len(load.cases()))") == [count]
    for command in COMMANDS:
        assert f"usage: python -m {command}" in environment.python("-m", command, "--help")[0]
    (folder,) = environment.python("-c", "import shared_specs.load as load; print(load.CASES)")
    shutil.copytree(folder, tmp_path / "cases")
    report = environment.python("-m", "shared_specs.changes", str(tmp_path / "cases"))
    assert report[0] == f"Test vectors: {count} cases; 0 added, 0 removed, 0 changed."
    environment.python("-m", "shared_specs.oracle", "--check", str(tmp_path / "cases/binary_hinge.json"))


def test_the_program_needs_no_framework_to_list_losses_and_targets(environment):
    environment.install(f"{WHEEL}[cli]")
    assert environment.python("-c", ABSENT, "keras", "torch", "jax", "tensorflow", "mpmath") == ["[]"]
    run = (
        "import pathlib, subprocess, sys; program = pathlib.Path(sys.executable).with_name('xent'); "
        "print(subprocess.run([program, *sys.argv[1:]], capture_output=True, text=True, check=True).stdout)"
    )
    assert environment.python("-c", run, "--version")[0] == f"xent, version {VERSION}"
    assert environment.python("-c", run, "list")[0] == "Cross-entropy"
    assert "lightning_xent" in environment.python("-c", run, "run", "--targets")
    assert environment.python("-m", "shared_specs.command", "list")[0] == "Cross-entropy"


def test_commands_are_found():
    assert {"shared_specs.oracle", "shared_specs.exhaustive", "shared_specs.changes"} <= set(COMMANDS)


def test_nothing_of_this_project_is_installed_here():
    """Otherwise the environments could see it."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("crossent")
