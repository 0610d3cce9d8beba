"""Small runs of both families."""

import pytest


@pytest.fixture(params=["top-down", "bottom-up"])
def config(request):
    """Path and overrides of a small run of either family."""
    names = {"top-down": ("quickstart", "small_run")}
    path, overrides = names.get(request.param, ("imhn_quickstart", "small_bottomup"))
    return request.getfixturevalue(path), request.getfixturevalue(overrides)


@pytest.fixture
def topdown(quickstart, small_run):
    """The same of the top-down family alone."""
    return quickstart, small_run
