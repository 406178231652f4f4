"""The bench of sweeps, tiny: who takes part, and that they train what they are said to."""

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import nnx

from experiments.bench import convolution, eager, sweep
from xent_jax import models


@pytest.fixture(autouse=True)
def sizes():
    """Makes all that the flags say as small as can be."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["bench"])
    small = {"examples": 70, "runs": [3], "width": [2], "rounds": 1, "model": ["mlp"]}
    with flagsaver.flagsaver(**small):
        yield


@pytest.mark.slow
def test_everyone_is_timed_in_a_process_of_their_own(capsys):
    figures = sweep.measure()["mlp"]
    rivals = ["one after another"]
    rivals += ["PyTorch", "PyTorch, tuned"] if eager.INSTALLED else []
    contestants = ["sweep of 3", *rivals, "width 2"]
    assert list(figures) == ["examples", "batch_size", *contestants]
    assert all(figures[name]["runs_per_second"] > 0 for name in contestants)
    swept, alone = figures["sweep of 3"], figures["one after another"]
    faster = swept["runs_per_second"] / alone["runs_per_second"]
    assert swept["times"]["one after another"] == pytest.approx(faster)
    assert figures["width 2"]["times"] == {"width 2": 1.0}
    printed = capsys.readouterr().out
    assert "mlp, runs of 2 steps of 64 images" in printed
    assert ("PyTorch is not installed" in printed) != eager.INSTALLED


def test_a_sweep_trains_every_run_for_an_epoch():
    workload = sweep.Workload("mlp", 70)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        (stack,) = sweep._swept(workload, 3)()
        single, metrics = sweep._alone(workload)()
    assert np.asarray(stack.step)[:3].tolist() == [2, 2, 2]
    assert int(single.step) == 2
    assert metrics.examples.tolist() == [64, 6]
    first = stack.params["logits"]["kernel"]
    np.testing.assert_allclose(first[0], single.params["logits"]["kernel"], atol=1e-5)
    assert not np.allclose(first[0], first[1], atol=1e-3)


@pytest.mark.skipif(not eager.INSTALLED, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", eager.NETWORKS)
def test_networks_have_as_many_parameters_as_ours(name):
    workload = sweep.Workload(name, 1)
    image_shape = sweep._splits(workload)["train"].images.shape[1:]
    of_ours = {"num_classes": 10, "image_shape": image_shape, "rngs": nnx.Rngs(0)}
    model = models.create(**sweep._model(workload), **of_ours)
    ours = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert sum(p.numel() for p in eager.NETWORKS[name]().parameters()) == ours


def test_hopeless_forms_of_a_convolution_are_left_out(monkeypatch, capsys):
    layers = {"one": ((2, 5, 5, 1), (3, 3, 1, 2))}
    monkeypatch.setattr(convolution, "_LAYERS", layers)
    times = iter([[1e-3, 2.0, 3.0, 1.0], [1e-3, 2.0, 1.0]])
    monkeypatch.setattr(convolution, "median_seconds", lambda programs: next(times))
    with flagsaver.flagsaver(runs=[2, 1]):
        figures = convolution._stacked()
    assert figures["grouped: one, 1 runs"] == pytest.approx(1.5)
    assert "grouped: one, 2 runs" not in figures
    assert figures["in turn: one, 2 runs"] == pytest.approx(0.5)
    assert "patches" in capsys.readouterr().out


def test_every_form_of_a_stack_takes_the_same_steps():
    x, w = convolution._random((2, 2, 5, 5, 1), (2, 3, 3, 1, 2))
    after = [convolution._of_stack(*form, x, w)() for form in convolution._STACKED.values()]
    assert all(not np.array_equal(found, w) for found in after)
    for other in after[1:]:
        np.testing.assert_allclose(other, after[0], rtol=1e-5)
