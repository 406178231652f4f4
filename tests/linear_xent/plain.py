"""The same losses in NumPy and float64, with gradients derived for all logits at once."""

from typing import NamedTuple

import numpy as np


class Plain(NamedTuple):
    loss: np.ndarray
    logsumexp: np.ndarray
    argmax: np.ndarray
    hidden: np.ndarray  # the gradients
    weights: np.ndarray
    bias: np.ndarray


def linear_cross_entropy(
    hidden,
    weights,
    labels,
    *,
    bias=None,
    where=None,
    label_smoothing=0.0,
    z_loss=0.0,
    logit_softcap=None,
    temperature=1.0,
    class_prior=None,
    of_loss=1.0,
    of_logsumexp=0.0,
):
    """Returns values, and gradients for the cotangents `of_loss` and `of_logsumexp` (N,)."""
    hidden, weights = np.float64(hidden), np.float64(weights)
    where = np.ones(len(hidden), bool) if where is None else where
    hidden, labels = np.where(where[:, None], hidden, 0.0), np.where(where, labels, 0)
    z = hidden @ weights.T + (0.0 if bias is None else np.float64(bias))
    slope = np.full(z.shape, 1.0 / temperature)
    if logit_softcap is not None:
        slope /= np.cosh(np.minimum(np.abs(z / logit_softcap), 300.0)) ** 2
        z = logit_softcap * np.tanh(z / logit_softcap)
    with np.errstate(divide="ignore"):
        z = z / temperature + (0.0 if class_prior is None else np.log(np.float64(class_prior)))
    largest = z.max(-1)
    logsumexp = largest + np.log(np.exp(z - largest[:, None]).sum(-1))
    log_p, possible = z - logsumexp[:, None], np.isfinite(z)
    t = (1.0 - label_smoothing) * (np.arange(z.shape[1]) == labels[:, None])
    t = t + label_smoothing * possible / possible.sum(-1, keepdims=True)
    loss = -np.sum(np.where(t == 0.0, 0.0, t * np.where(t == 0.0, 0.0, log_p)), -1)
    loss += z_loss * logsumexp**2
    p = np.exp(log_p)
    of_normalizer = 2.0 * z_loss * logsumexp * of_loss + of_logsumexp
    dx = slope * (
        np.broadcast_to(of_loss, loss.shape)[:, None] * (p - t) + of_normalizer[:, None] * p
    )
    dx = np.where(where[:, None], dx, 0.0)
    masked = [np.where(where, x, 0) for x in (loss, logsumexp, z.argmax(-1))]
    return Plain(*masked, dx @ weights, dx.T @ hidden, dx.sum(0))


def problem(tokens, width, classes, seed=0, scale=1.0):
    """Returns hidden, weights and labels at random, and arguments for every option there is."""
    rng = np.random.default_rng(seed)
    hidden = (scale * rng.normal(size=(tokens, width))).astype(np.float32)
    weights = rng.normal(size=(classes, width)).astype(np.float32)
    labels = rng.integers(0, classes, tokens).astype(np.int32)
    prior = rng.dirichlet(np.full(classes, 2.0)).astype(np.float32)
    options = {
        "bias": rng.normal(size=classes).astype(np.float32),
        "label_smoothing": 0.1,
        "z_loss": 0.01,
        "logit_softcap": 3.0,
        "temperature": 1.7,
        "class_prior": prior,
    }
    return hidden, weights, labels, options
