"""The rows of the README's table for PyTorch's users that promise equal values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xent_jax as xent

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 3, 1, 2, 2, 0])
W = RANDOM.uniform(0.5, 2.0, 4).astype(np.float32)
P = RANDOM.dirichlet(np.ones(4), 6).astype(np.float32)
B = (RANDOM.uniform(size=(6, 4)) > 0.5).astype(np.float32)
IGNORED = np.where(np.arange(6) == 1, -100, Y)
cross_entropy = xent.softmax_cross_entropy_with_integer_labels

# theirs(z), ours(z)
PAIRS = {
    "cross_entropy": (lambda z: F.cross_entropy(z, t(Y), reduction="none"),
                      lambda z: cross_entropy(z, Y)),
    "probabilities": (lambda z: F.cross_entropy(z, t(P), reduction="none"),
                      lambda z: xent.softmax_cross_entropy(z, P)),
    "weight": (lambda z: F.cross_entropy(z, t(Y), weight=t(W), reduction="none"),
               lambda z: cross_entropy(z, Y, class_weights=jnp.asarray(W))),
    "weighted mean": (lambda z: F.cross_entropy(z, t(Y), weight=t(W)),
                      lambda z: xent.masked_mean(cross_entropy(z, Y), weights=jnp.asarray(W[Y]))),
    "smoothing": (lambda z: F.cross_entropy(z, t(Y), label_smoothing=0.1, reduction="none"),
                  lambda z: cross_entropy(z, Y, label_smoothing=0.1)),
    "ignore_index": (lambda z: F.cross_entropy(z, t(IGNORED), reduction="none"),
                     lambda z: cross_entropy(z, IGNORED, ignore_label=-100)),
    "nll_loss": (lambda z: F.nll_loss(torch.log_softmax(z, -1), t(Y), reduction="none"),
                 lambda z: cross_entropy(jax.nn.log_softmax(z), Y)),
    "binary": (
        lambda z: F.binary_cross_entropy_with_logits(
            z, t(B), pos_weight=torch.tensor(3.0), reduction="none"
        ),
        lambda z: xent.sigmoid_binary_cross_entropy(z, B, pos_weight=3.0),
    ),
    "kl_div": (lambda z: F.kl_div(torch.log_softmax(z, -1), t(P), reduction="none").sum(-1),
               lambda z: xent.kl_divergence(jax.nn.log_softmax(z), jnp.asarray(P))),
}  # fmt: skip


def t(array):
    return torch.from_numpy(array)


@pytest.mark.parametrize("pair", PAIRS)
def test_value_and_gradient_are_pytorchs(pair):
    theirs, ours = PAIRS[pair]
    z = t(Z.copy()).requires_grad_()
    value = theirs(z)
    value.sum().backward()
    expected, gradient = value.detach().numpy(), z.grad.numpy()
    got = ours(jnp.asarray(Z))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
    slope = jax.grad(lambda z: ours(z).sum())(jnp.asarray(Z))
    np.testing.assert_allclose(slope, gradient, rtol=2e-5, atol=1e-6)
