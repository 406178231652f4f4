"""The messages of bad arguments."""

import numpy as np
import pytest

import xent_jax as xent
from xent_jax.linear_xent import arguments


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (TypeError, "hidden must be floating point, got int32", {"hidden": np.ones((2, 3), "i4")}),
        (TypeError, "labels must be integer classes", {"labels": np.zeros(2, "f4")}),
        (ValueError, r"got \(3, 4\); pass weights.T", {"weights": np.ones((3, 4), "f4")}),
        (ValueError, r"\(V, 3\).*got \(5, 2\)$", {"weights": np.ones((5, 2), "f4")}),
        (ValueError, "at least one class", {"weights": np.ones((0, 3), "f4")}),
        (ValueError, r"labels must have the shape .* \(2,\)", {"labels": np.zeros(3, "i4")}),
        (TypeError, "where must be boolean", {"where": np.ones(2, "f4")}),
        (ValueError, "one boolean per token", {"where": np.ones(3, bool)}),
        (ValueError, r"bias must have shape \(4,\)", {"bias": np.ones(3, "f4")}),
        (ValueError, "divide counts by their sum", {"class_prior": np.ones(4, "f4")}),
        (ValueError, r"temperature must lie in \(0, inf\), got 0", {"temperature": 0.0}),
        (ValueError, "logit_softcap must be a scalar", {"logit_softcap": np.ones(2, "f4")}),
    ],
)
def test_bad_arguments_are_told(error, message, changes):
    with pytest.raises(error, match=message):
        prepare(**changes)


GOOD = {
    "hidden": np.ones((2, 3), np.float32),
    "weights": np.ones((4, 3), np.float32),
    "labels": np.zeros(2, np.int32),
}


def prepare(**changes):
    options = {"bias": None, "where": None, "logit_softcap": None, "temperature": 1.0}
    options = {**options, "class_prior": None, "uniform": False, **GOOD, **changes}
    return arguments.prepare(**options)


def test_weights_per_token_fit_the_tokens():
    with pytest.raises(ValueError, match=r"one number per token, shape \(2,\), got \(3,\)"):
        arguments.token_weights(np.ones(3, np.float32), prepare())


@pytest.mark.parametrize(
    ("message", "keywords"),
    [
        (r"label_smoothing must lie in \[0, 1\], got 1.5", {"label_smoothing": 1.5}),
        (r"z_loss must lie in \[0, inf\), got -1", {"z_loss": -1.0}),
        ("one of chunked, reference, .*or None, got 'magic'", {"implementation": "magic"}),
    ],
)
def test_bad_options_are_told_by_both_functions(message, keywords):
    for function in (xent.linear_softmax_cross_entropy, xent.linear_softmax_cross_entropy_sum):
        with pytest.raises(ValueError, match=message):
            function(*GOOD.values(), **keywords)


def test_what_is_at_its_default_leaves_no_trace():
    problem = prepare()
    assert problem.layer.adjustment == (None, None, None, None)
    assert problem.tokens.where is None
    assert prepare(temperature=2.0).layer.adjustment.scale == 0.5
