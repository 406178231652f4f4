"""Every public function can be called at a size, so that nothing escapes the benches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.peers import optax_peer, torch_peer
from experiments.workloads import workload
from xent_jax import losses

EXAMPLES, CLASSES = 8, 10
TRANSFORMS = {  # arrays in, arrays out, or booleans: nothing a model learns through
    "anchor_point_transition_matrix", "categorical_projection", "class_balanced_weights",
    "co_teaching_forget_rate", "confidence_regularized_sieve", "cross_entropy_method", "cutmix",
    "deferred_reweighting_weights", "fgsm", "hl_gauss_targets", "inverse_frequency_weights",
    "mixup", "pgd", "small_loss_selection", "smooth_labels", "two_hot_targets",
    "virtual_adversarial_perturbation", "viterbi_decode",
}  # fmt: skip


@pytest.mark.parametrize("name", losses.__all__)
def test_it_runs_and_is_finite(name):
    loss = workload(name, EXAMPLES, CLASSES)
    learned = {key: loss.arguments[key] for key in loss.differentiable}
    assert bool(learned) != (name in TRANSFORMS or name.startswith("init_"))

    for array in jax.tree.leaves(jax.jit(lambda given: loss.function(**given))(loss.arguments)):
        if jnp.issubdtype(array.dtype, jnp.floating):
            assert np.all(np.isfinite(array)), array
    if learned:
        others = {key: a for key, a in loss.arguments.items() if key not in learned}
        gradient = jax.eval_shape(jax.grad(loss.total), learned, others)
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, learned)


def test_another_seed_draws_other_arrays_and_the_same_seed_the_same():
    first, again, other = (
        workload("trades", EXAMPLES, CLASSES, seed).arguments["logits"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


@pytest.mark.parametrize("name", [n for n in losses.__all__ if optax_peer(n)])
def test_optax_is_asked_for_the_same(name, strict_promotion):
    loss = workload(name, EXAMPLES, CLASSES)

    @jax.jit
    def both(given):
        ours = loss.function(**given)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return ours, optax_peer(name)(**given)

    ours, theirs = jax.device_get(both(loss.arguments))
    if theirs.shape != ours.shape:  # optax's mean over pairs or sets, or one for every class
        ours, theirs = ours.mean(), theirs.mean()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_pytorch_is_asked_for_the_same():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    compared = [name for name in losses.__all__ if torch_peer(name)]
    assert len(compared) >= 9
    for name in compared:
        compare_with_pytorch(torch, name)


def compare_with_pytorch(torch, name):
    loss, peer = workload(name, EXAMPLES, CLASSES), torch_peer(name)
    tensors = {k: torch.tensor(np.asarray(v)) for k, v in loss.arguments.items()}
    theirs = peer(**{k: v if v.is_floating_point() else v.long() for k, v in tensors.items()})
    ours = jax.tree.leaves(jax.jit(lambda given: loss.function(**given))(loss.arguments))[0]
    if name == "token_cross_entropy":  # ours are sums of sequences
        theirs = theirs.reshape(len(ours), -1).sum(-1)
    np.testing.assert_allclose(ours.ravel(), theirs.numpy().ravel(), rtol=1e-4, atol=1e-5)
