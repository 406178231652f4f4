"""Runs every example in the losses' docstrings."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

from xent_jax import losses

MODULES = [f"losses.{module.name}" for module in pkgutil.iter_modules(losses.__path__)]


@pytest.mark.parametrize("name", [*MODULES, "linear_xent.api", "presets"])
def test_examples(name):
    module = importlib.import_module(f"xent_jax.{name}")
    # Four digits, so that an example does not depend on the machine's last bits.
    with np.printoptions(precision=4, suppress=True):
        failed, _ = doctest.testmod(module)
    assert failed == 0
