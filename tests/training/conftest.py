"""The recipe, weights and batch of tests of steps, in a file's own sizes: INPUT, STORED, BATCH."""

import pytest

from tests.support.small_steps import make_batch, make_recipe, make_variables


@pytest.fixture(scope="module")
def recipe(request):
    return make_recipe(request.module.INPUT)


@pytest.fixture(scope="module")
def variables(recipe):
    return make_variables(recipe)


@pytest.fixture(scope="module")
def batch(request):
    return make_batch(request.module.BATCH, request.module.STORED)
