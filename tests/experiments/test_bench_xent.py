"""The benches of both cross-entropies, tiny: who takes part, and that errors would be seen."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.bench import contest, eager, linear_xent, programs, size, softmax_xent
from xent_jax.errors import UserError
from xent_jax.linear_xent import arguments


@pytest.fixture(autouse=True)
def tiny():
    """Makes all that the flags say as small as can be."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["bench"])
    with flagsaver.flagsaver(rounds=1, only="", dtype=["float32"], shape=[], rows=[]):
        yield


LINEAR = linear_xent.Workload(300, 3, 7, "float32")
GIVEN = softmax_xent.Workload(70, 5, "float32")


@pytest.mark.slow
def test_everyone_takes_turns_and_is_right(capsys):
    with flagsaver.flagsaver(shape=["70x3x5"], rows=[32]):
        linear = linear_xent.measure()["70x3x5 float32"]
    with flagsaver.flagsaver(shape=["70x5"]):
        softmax = softmax_xent.measure()["70x5 float32"]
    ours = {"ours, chunked", "ours, chunked sum", "ours, chunked sum, 32 rows"}
    assert {"the three products alone", "optax", "jnp"} | ours <= set(linear)
    assert {"copy", "optax", "jnp", "ours"} <= set(softmax)
    assert any("PyTorch" in name for name in softmax) == eager.INSTALLED
    here = [f for f in [*linear.values(), *softmax.values()] if "failed" not in f]
    assert all(0 < f["minimum_ms"] <= f["median_ms"] for f in here)
    assert all(error < 1e-5 for f in here for error in f["errors"].values())
    assert all(linear[name]["temporary_bytes"] > 0 for name in ours)
    assert "70x3x5 float32 on cpu" in capsys.readouterr().out


def _of_logits(logits, labels):
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def _of_layer(hidden, weights, labels):
    return jnp.mean(_of_logits(hidden @ weights.T, labels))


def _in_double(loss, arrays, labels, dtype, sample):
    assert dtype == "float32"
    return programs.jax_program(loss, arrays, labels, "float64", sample)


@pytest.mark.parametrize(
    ("bench", "workload", "loss"),
    [(linear_xent, LINEAR, _of_layer), (softmax_xent, GIVEN, _of_logits)],
)
def test_exact_numbers_are_those_of_plain_formulas_in_float64(bench, workload, loss):
    with jax.enable_x64(True):
        found = bench.prepare(workload, _in_double, loss).samples
    for name, expected in bench.exact(workload).items():
        assert contest.relative_error(found[name], expected) < 1e-13


def test_what_fails_is_named_and_others_are_timed(capsys):
    samples = {"loss": np.ones(()), "gradient": np.full(3, 2.0)}
    with contest.processes() as start:
        process = start()
        fine = contest.enter(process, "fine", samples, _prepared, 2.0)
        fails = contest.enter(process, "fails", samples, _prepared, None)
        figures = contest.compete([fine, fails], 2)
    assert figures["fine"]["errors"] == {"loss": 1.0, "gradient": 0.0}
    assert figures["fine"]["minimum_ms"] >= 20.0
    assert figures["fine"]["processor_ms"] < figures["fine"]["median_ms"]
    assert figures["fails"] == {"failed": "RuntimeError: no such kernel"}
    figures["fine"]["share"] = 0.25
    contest.report(figures, "share")
    table, reason = capsys.readouterr().out.split("fails:")
    assert "1 MiB" in table
    assert "1e+00      0e+00" in table
    assert reason == " not here: RuntimeError: no such kernel\n"


def _prepared(value):
    """Returns a contestant that waits for a fiftieth of a second."""
    if value is None:
        raise RuntimeError("no such kernel\nand more")
    samples = {"loss": np.asarray(value), "gradient": np.full(3, value)}
    return contest.Prepared(lambda: time.sleep(0.02), samples, 0.0, 2**20)


def test_a_shape_of_another_kind_is_told():
    with flagsaver.flagsaver(shape=["8x9", "10x11"]):
        assert size.shapes(2, []) == [(8, 9), (10, 11)]
        with pytest.raises(UserError, match="--shape=8x9 must be 3 sizes above 0"):
            size.shapes(3, [])
    assert size.shapes(2, ["1x2"]) == [(1, 2)]
    for wrong in ("8x", "8xa", "0x3"):
        with flagsaver.flagsaver(shape=[wrong]), pytest.raises(UserError, match="sizes above 0"):
            size.shapes(2, [])


def test_contestants_are_chosen_by_name():
    groups = {"optax": 1, "jnp": 2}, {"PyTorch": 3}
    for only, expected in [("", [*groups]), ("^o|Py", [{"optax": 1}, {"PyTorch": 3}])]:
        with flagsaver.flagsaver(only=only):
            assert size.asked(*groups) == expected
    with flagsaver.flagsaver(only="x$y"), pytest.raises(UserError, match="none of 3 names, as op"):
        size.asked(*groups)


def test_a_busy_machine_is_told(monkeypatch, capsys):
    for running, warned in [(0.2, False), (3.0, True)]:
        monkeypatch.setattr(contest.os, "getloadavg", lambda load=running: (load, 0.0, 0.0))
        assert contest.load() == running
        assert ("WARNING" in capsys.readouterr().out) == warned


def test_chunks_are_as_asked():
    with linear_xent._chunks_of(32):
        hidden, weights = jnp.ones((100, 2)), jnp.ones((3, 2))
        assert arguments.settings_of(hidden, weights, False, False, None).rows == 32


def test_the_accumulator_is_told_of_narrow_gradients_alone():
    assert linear_xent._accumulator(LINEAR) == 0
    assert linear_xent._accumulator(LINEAR._replace(dtype="bfloat16")) == 4 * 3 * 7
