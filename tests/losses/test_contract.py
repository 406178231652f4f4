"""The messages of bad arguments; the matrix runs what the contract does to good ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from xent_jax.losses import contract

LOGITS, LABELS = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)


def prepare(logits=LOGITS, labels=LABELS, where=None, axis=-1, **keywords):
    return contract.prepare(logits, labels, where=where, axis=axis, **keywords)


@pytest.mark.parametrize(
    ("error", "message", "keywords"),
    [
        (TypeError, "logits must be floating point, got int32", {"logits": LOGITS.astype("int32")}),
        (TypeError, "labels must be integer classes, got float32", {"labels": LABELS * 1.0}),
        (TypeError, "where must be boolean, got int32", {"where": LABELS}),
        (TypeError, "class_mask must be boolean, got int32", {"class_mask": np.zeros(3, "int32")}),
        (
            ValueError,
            r"without the class axis, \(2,\), got \(2, 3\)",
            {"labels": LOGITS.astype(int)},
        ),
        (ValueError, r"shape \(2,\), got \(2, 3\); .* class_mask", {"where": LOGITS > 0}),
        (ValueError, r"class_mask must have shape \(3,\) or", {"class_mask": np.ones(2, bool)}),
        (ValueError, "at least one class on axis -1", {"logits": LOGITS[:, :0]}),
        (ValueError, r"logits of shape \(2, 3\) have no axis 2", {"axis": 2}),
        (ValueError, r"logits of shape \(\) have no axis -1", {"logits": np.float32(0)[()]}),
    ],
)
def test_each_says_what_was_wrong_and_what_is_allowed(error, message, keywords):
    keywords = {name: jnp.asarray(x) if name != "axis" else x for name, x in keywords.items()}
    with pytest.raises(error, match=message):
        prepare(**keywords)


def test_ranges_read_as_intervals():
    like = jnp.zeros(())
    for keywords, interval in [
        ({"at_least": 0.0, "at_most": 1.0}, r"\[0, 1\]"),
        ({"above": 0.0}, r"\(0, inf\)"),
        ({"at_most": 0.0}, r"\(-inf, 0\]"),
    ]:
        with pytest.raises(ValueError, match=rf"q must lie in {interval}, got inf"):
            contract.scalar("q", np.inf, like, **keywords)
    with pytest.raises(ValueError, match=r"must lie in \(0, inf\), got 0"):
        contract.scalar("q", 0, like, above=0.0)


def test_the_targets_shape_is_told():
    with pytest.raises(ValueError, match=r"the logits' shape \(2, 3\), got \(2,\)"):
        contract.prepare_targets(LOGITS, LABELS, where=None, axis=-1)
