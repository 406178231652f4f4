"""Losses of one label among several classes, over the logit or the cosine of the label."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.curves.picture import (
    CLASSES,
    COUNTS,
    LABEL_AXIS,
    MARGINS,
    ONCE,
    PRIOR,
    Picture,
    Variants,
    along,
    frequent_and_rare,
    label_loss,
    placed,
    raised,
    sweep,
)
from xent_jax import losses
from xent_jax.typing import Array


def pictures() -> dict[str, Picture]:
    """Returns the pictures of these losses, by name."""
    return (
        _of_the_label()
        | _of_a_target()
        | _of_rare_classes()
        | _of_cosines()
        | _of_predictions()
        | _of_policies()
        | _of_large_vocabularies()
    )


EVEN = np.full(CLASSES, 1.0 / CLASSES)


def cross_entropy(x: Array) -> Array:
    return label_loss(losses.softmax_cross_entropy_with_integer_labels, x)


def _noise(*rates: float) -> Variants:
    def matrix(rate: float) -> np.ndarray:
        return (1.0 - rate) * np.eye(CLASSES) + rate * (1.0 - np.eye(CLASSES)) / (CLASSES - 1)

    return {f"{rate:.0%} of labels wrong": {"transition_matrix": matrix(rate)} for rate in rates}


def _of_the_label() -> dict[str, Picture]:
    peers = {"peer_logits": np.zeros(CLASSES), "peer_labels": np.asarray(1)}
    teacher = {"teacher_logits": placed(2.0)}
    rows: dict[str, Variants] = {
        # categorical
        "brier_score": ONCE,
        "confidence_penalty": sweep(beta=(0.1, 0.5)),
        "multiclass_hinge_loss": ONCE,
        "poly_loss_cross_entropy": sweep(epsilon=(-1.0, 2.0)),
        "softmax_cross_entropy_with_integer_labels": sweep(label_smoothing=(0.1, 0.3)),
        "softmax_focal_loss": sweep(gamma=(0.5, 2.0, 5.0)),
        "squared_error": sweep(label_value=(1.0, 5.0)),
        # noisy labels
        "asymmetric_exponential": sweep(a=(1.0, 3.0)),
        "asymmetric_generalized_cross_entropy": sweep(q=(0.5, 2.0)),
        "asymmetric_unhinged": sweep(a=(1.5, 3.0)),
        "epsilon_softmax": sweep(m=(10.0, 1e5)),
        "generalized_cross_entropy": sweep(q=(0.3, 0.7, 1.0)),
        "generalized_jensen_shannon": sweep(label_weight=(0.1, 0.5, 0.9)),
        "ldr_kl": sweep(temperature=(1.0, 5.0)),
        "logit_clip": sweep(max_norm=(1.0, 3.0)),
        "mean_absolute_error": ONCE,
        "partially_huberised_cross_entropy": sweep(tau=(2.0, 10.0)),
        "partially_huberised_generalized_cross_entropy": sweep(tau=(2.0, 10.0)),
        "reverse_cross_entropy": sweep(log_zero=(-2.0, -4.0)),
        "robust_f_divergence": {
            name.replace("_", " "): {"divergence": name, **peers}
            for name in ("total_variation", "jensen_shannon", "kullback_leibler")
        },
        "symmetric_cross_entropy": sweep(alpha=(0.1, 1.0)),
        "taylor_cross_entropy": sweep(order=(1, 2, 6)),
        "truncated_generalized_cross_entropy": sweep(k=(0.3, 0.5)),
        "active_negative": sweep(gamma=(0.0, 0.5)),
        "active_passive": {
            f"with {passive}".replace("_", " "): {"passive": passive}
            for passive in ("mean_absolute_error", "reverse_cross_entropy")
        },
        "normalized_cross_entropy": ONCE,
        "normalized_focal": sweep(gamma=(0.5, 2.0)),
        "normalized_generalized_cross_entropy": sweep(q=(0.3, 0.7)),
        "bi_tempered_logistic": {
            f"t1 = {t1:g}, t2 = {t2:g}": {"t1": t1, "t2": t2}
            for t1, t2 in ((1.0, 1.4), (0.8, 1.0), (0.8, 1.4))
        },
        # label correction
        "backward_correction": _noise(0.2, 0.4),
        "forward_correction": _noise(0.2, 0.4),
        "early_learning_regularization": {
            f"memory of {what}": {"state": 0.7 * placed(1.0, index)[None], "indices": np.asarray(0)}
            for what, index in (("the label", 0), ("another class", 1))
        },
        "hard_bootstrap": sweep(beta=(0.8, 0.5)),
        "soft_bootstrap": sweep(beta=(0.95, 0.7)),
        "joint_optimization": ONCE,
        "negative_learning": ONCE,
        "peer_loss": {
            f"alpha = {alpha:g}": {"alpha": alpha, "class_prior": EVEN} for alpha in (0.5, 1.0)
        },
        # sparse maps
        "entmax15_loss": ONCE,
        "entmax_loss": sweep(alpha=(1.25, 1.5, 2.0)),
        "multiclass_perceptron_loss": ONCE,
        "multiclass_sparsemax_loss": ONCE,
        # transfer
        "decoupled_distillation": {
            f"temperature = {t:g}": {"temperature": t, **teacher} for t in (1.0, 4.0)
        },
        "distillation": {
            f"label_weight = {weight:g}": {"label_weight": weight, **teacher}
            for weight in (0.0, 0.5)
        },
        "jensen_shannon_distillation": {
            f"beta = {beta:g}": {"beta": beta, **teacher} for beta in (0.1, 0.5, 0.9)
        },
        "soft_ordinal": sweep(scale=(0.5, 1.0, 2.0)),
    }
    return along(rows, label_loss, LABEL_AXIS, **MARGINS, grey="cross-entropy")


def _of_a_target() -> dict[str, Picture]:
    """Of losses whose labels are one number per class."""

    def call(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(raised(x), jnp.asarray(placed(1.0)), **keywords)

    def soft(loss: Callable[..., Any], x: Array, share: float) -> Array:
        rest = (1.0 - share) / (CLASSES - 1)
        return loss(raised(x), jnp.asarray(placed(share - rest) + rest))

    rows = {"list_mle": ONCE, "pairwise_logistic": ONCE, "ranking_softmax_loss": ONCE}
    axis = "score of the one relevant item (the nine others are 0)"
    targets: dict[str, Variants] = {
        "softmax_cross_entropy": {f"target {share:g}": {"share": share} for share in (0.9, 0.6)}
    }
    return along(rows, call, axis, **MARGINS, grey="cross-entropy") | along(
        targets,
        soft,
        "logit of the class with the most of the target",
        **MARGINS,
        grey="cross-entropy",
    )


def _of_rare_classes() -> dict[str, Picture]:
    counts, prior = {"class_counts": COUNTS}, {"class_prior": PRIOR}
    pushed = {
        f"negatives {ratio:g} times the positives": {
            "state": losses.init_equalization_v2_state(CLASSES)._replace(
                positive=np.ones(CLASSES), negative=np.full(CLASSES, ratio)
            )
        }
        for ratio in (1.0, 5.0)
    }
    rows: dict[str, Variants] = {
        "balanced_softmax": frequent_and_rare(**counts),
        "class_balanced_focal_loss": frequent_and_rare(**counts),
        "class_dependent_temperature": frequent_and_rare(**counts),
        "equalization": frequent_and_rare(**prior),
        "equalization_v2": pushed,
        "influence_balanced": frequent_and_rare(features=np.ones(8), **counts),
        "label_aware_smoothing": frequent_and_rare(**counts),
        "logit_adjusted": frequent_and_rare(**prior),
        "seesaw": frequent_and_rare(state=COUNTS.astype(np.int32)),
        "vector_scaling": frequent_and_rare(**counts),
    }
    return along(rows, label_loss, LABEL_AXIS, **MARGINS, grey="cross-entropy")


def _of_cosines() -> dict[str, Picture]:
    def one_of_a_batch(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        """Of losses per proxy: the example of class 0 moves, those of other classes do not."""
        cosines = jnp.stack([raised(x), *jnp.zeros((3, CLASSES))])
        return loss(cosines, jnp.arange(4), **keywords)[0]

    def centres(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        cosines = jnp.stack([raised(x), jnp.zeros(CLASSES)], axis=-1)
        return loss(cosines, jnp.asarray(0), **keywords)

    axis, ends = "cosine of the label (the others are 0)", {"low": -0.98, "high": 0.98}
    rows: dict[str, Variants] = {
        "arcface": sweep(margin=(0.0, 0.5)),
        "cosface": sweep(margin=(0.0, 0.35)),
        "cosine_softmax": sweep(scale=(5.0, 10.0, 20.0)),
        "ldam": frequent_and_rare(class_counts=COUNTS),
        "negative_margin": sweep(margin=(0.0, -0.3)),
        "normface": sweep(scale=(10.0, 20.0)),
        "proxy_nca": sweep(scale=(1.0, 3.0)),
        "sphereface": sweep(margin=(1.0, 2.0, 4.0)),
    }
    return (
        along(rows, label_loss, axis, **ends)
        | along({"proxy_anchor": sweep(scale=(16.0, 32.0))}, one_of_a_batch, axis, **ends)
        | along({"soft_triple": sweep(gamma=(0.05, 0.1, 0.5))}, centres, axis, **ends)
    )


def _of_predictions() -> dict[str, Picture]:
    """Of losses of a prediction that has no label, or of two predictions."""

    def alone(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(raised(x), **keywords)

    def views(loss: Callable[..., Any], x: Array, other: float) -> Array:
        return loss(raised(x), jnp.asarray(placed(other)))

    def augmented(loss: Callable[..., Any], x: Array, other: float) -> Array:
        views = [jnp.asarray(placed(other))] * 2
        return loss(raised(x), jnp.asarray(0), *views)

    def attacked(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        clean = jnp.asarray(placed(3.0))
        return loss(clean, jnp.asarray(0), raised(x), **keywords)

    sure = {
        "weak view unsure": {"weak_logits": placed(3.0)},
        "weak view sure": {"weak_logits": placed(6.0)},
    }
    others = {f"the other at {other:g}": {"other": other} for other in (0.0, 3.0)}
    views_at = {f"views at {other:g}": {"other": other} for other in (0.0, 3.0)}
    target = {
        f"target_temperature = {temperature:g}": {
            "target_logits": placed(2.0),
            "target_temperature": temperature,
        }
        for temperature in (1.0, 0.5)
    }
    one = "logit of one class (the nine others are 0)"
    return {
        **along(
            {
                "consistency": target,
                "entropy_bonus": ONCE,
                "entropy_minimisation": ONCE,
                "fixmatch": sure,
                "pseudo_label": sweep(threshold=(0.0, 0.8)),
            },
            alone,
            one,
            **MARGINS,
        ),
        **along(
            {"jensen_shannon_consistency": others}, views, f"{one}, in one of two views", **MARGINS
        ),
        **along({"augmix": views_at}, augmented, LABEL_AXIS, **MARGINS, grey="cross-entropy"),
        **along(
            {"trades": sweep(beta=(1.0, 6.0))},
            attacked,
            "logit of the label under attack (3 without)",
            **MARGINS,
        ),
    }


def _of_policies() -> dict[str, Picture]:
    def preference(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        zero = jnp.zeros_like(x)
        return loss(x, zero, zero, zero, **keywords)

    outcomes = (("a good action", 1.0), ("a bad action", -1.0))
    advantages = {name: {"advantages": np.asarray(value)} for name, value in outcomes}
    before = {"old_log_probabilities": np.asarray(np.log(1.0 / CLASSES))}
    clipped = {name: {**keywords, **before} for name, keywords in advantages.items()}
    axis = "logit of the action taken (the nine others are 0)"
    return {
        **along({"policy_gradient": advantages}, label_loss, axis, **MARGINS),
        **along({"ppo_clip": clipped}, label_loss, f"{axis}, 0 before", low=-2.0, high=2.0),
        **along(
            {"direct_preference": sweep(beta=(0.1, 0.5, 1.0))},
            preference,
            "log-odds of the better answer, less the reference's",
            **MARGINS,
        ),
    }


def _of_large_vocabularies() -> dict[str, Picture]:
    """With one feature, so that it is the label's logit."""

    def adaptive(loss: Callable[..., Any], x: Array, place: str) -> Array:
        in_head = place == "head"
        head = raised(x, 0 if in_head else 3, 4)[:, None]  # three classes and one cluster
        tail = raised(x, 0, 6)[:, None]
        tails = [(jnp.ones((1, 1), x.dtype), tail)]
        label = jnp.asarray([0 if in_head else 3])
        return loss(jnp.ones((1, 1), x.dtype), label, head, tails)[0]

    def sampled(loss: Callable[..., Any], x: Array, count: int) -> Array:
        weights = jnp.asarray(placed(1.0))[:, None]
        expected = jnp.full(CLASSES, np.log(count / CLASSES))
        drawn = 1 + jnp.arange(count) % (CLASSES - 1)
        return loss(x[None, None], jnp.asarray([0]), weights, drawn, expected)[0]

    places = {"a class of the head": {"place": "head"}, "a class of a tail": {"place": "tail"}}
    samples = {f"{count} samples": {"count": count} for count in (2, 9)}
    return along(
        {"adaptive_softmax": places},
        adaptive,
        "logit of the label, and of its cluster (the others are 0)",
        **MARGINS,
    ) | along(
        {"noise_contrastive_estimation": samples, "sampled_softmax": samples},
        sampled,
        LABEL_AXIS,
        **MARGINS,
        grey="cross-entropy",
    )
