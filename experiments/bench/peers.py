"""The same losses in optax and in PyTorch, called with the arguments of `experiments.workloads`."""

import importlib.util
import inspect
import os
from collections.abc import Callable
from typing import Any

import optax.losses

from xent_jax import losses

Peer = Callable[..., Any]

# optax's functions of the same name take the same arguments in the same order.
_OPTAX = {
    "ctc_loss", "generalized_kl_divergence", "hinge_loss", "kl_divergence",
    "kl_divergence_with_log_targets", "multiclass_hinge_loss", "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss", "ntxent", "perceptron_loss", "poly_loss_cross_entropy",
    "sigmoid_binary_cross_entropy", "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels", "sparsemax_loss", "triplet_margin_loss",
    "binary_dice_loss",
    "ranking_softmax_loss", "sigmoid_focal_loss", "dice_loss", "multiclass_generalized_dice_loss",
    "smooth_labels",
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "sigmoid_focal_loss": {"alpha": 0.25},
    "ranking_softmax_loss": {"reduce_fn": None},
    "dice_loss": {"reduction": "none"},
}


def optax_peer(name: str) -> Peer | None:
    """Returns optax's loss of that name, with our defaults where they differ."""
    if name not in _OPTAX:
        return None
    function, order = getattr(optax.losses, name), inspect.signature(getattr(losses, name))
    return lambda **given: function(
        *(given[argument] for argument in order.parameters if argument in given),
        **_DEFAULTS.get(name, {}),
    )


def torch_peer(name: str) -> Peer | None:
    """Returns PyTorch's loss of that meaning, of tensors; None if it or PyTorch is missing."""
    return _torch_losses().get(name) if importlib.util.find_spec("torch") else None


def _torch_losses() -> dict[str, Peer]:
    # Threads that spin while they wait would be charged to whatever is measured next.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    F = torch.nn.functional

    def cross_entropy(logits, labels):
        return F.cross_entropy(logits, labels, reduction="none")

    def token_cross_entropy(logits, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")

    def cross_entropy_from_probabilities(probabilities, labels):
        return F.nll_loss(torch.log(probabilities), labels, reduction="none")

    def kl_divergence(log_predictions, targets):
        return F.kl_div(log_predictions, targets, reduction="none").sum(-1)

    def kl_divergence_with_log_targets(log_predictions, log_targets):
        return F.kl_div(log_predictions, log_targets, reduction="none", log_target=True).sum(-1)

    def sigmoid_binary_cross_entropy(logits, labels):
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")

    def binary_cross_entropy_from_probabilities(probabilities, labels):
        return F.binary_cross_entropy(probabilities, labels.float(), reduction="none")

    def ctc_loss(logits, logit_paddings, labels, label_paddings):
        frames, lengths = ((1 - p.int()).sum(-1) for p in (logit_paddings, label_paddings))
        log_p = torch.log_softmax(logits, -1).transpose(0, 1)
        return F.ctc_loss(log_p, labels, frames, lengths, reduction="none")

    return {function.__name__: function for function in (
        token_cross_entropy, cross_entropy_from_probabilities, kl_divergence,
        kl_divergence_with_log_targets, sigmoid_binary_cross_entropy,
        binary_cross_entropy_from_probabilities, ctc_loss,
    )} | {
        "softmax_cross_entropy_with_integer_labels": cross_entropy,
        "softmax_cross_entropy": cross_entropy,
    }  # fmt: skip
