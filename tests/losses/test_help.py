"""What `help()` of a loss shows: the meaning of every keyword, and an example that runs."""

import doctest
import inspect
import re
import warnings
from dataclasses import fields

import pytest

from shared_specs.common.spec import public_classes
from sides import side

LOSSES = public_classes(side.package)


@pytest.mark.parametrize("name", LOSSES)
def test_help_explains_every_keyword_once(name):
    described = re.findall(r"^ {4}(\w+): \S", inspect.getdoc(LOSSES[name]), flags=re.MULTILINE)
    assert sorted(described) == sorted(field.name for field in fields(LOSSES[name]))


@pytest.mark.parametrize("name", LOSSES)
def test_the_example_of_a_loss_gives_what_it_says(name):
    examples = doctest.DocTestFinder(recurse=False).find(LOSSES[name], name)
    assert f"{name}(" in "".join(example.source for test in examples for example in test.examples)
    runner = doctest.DocTestRunner()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [runner.run(test) for test in examples]
    assert [(result.failed, result.attempted) for result in results] == [(0, 4)]


def test_a_loss_of_a_user_is_explained_too():
    class Mine(side.package.base.Loss):
        """Mine.

        Args:
            reduction: My own words.
        """

    described = inspect.getdoc(Mine)
    assert "ignore_index: Rows" in described and "My own words" in described
    assert described.count("reduction: ") == 1
    assert "Example:" not in described

    class Silent(side.package.base.Loss):
        pass

    assert not vars(Silent).get("__doc__")
