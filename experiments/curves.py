"""What each loss looks like: its value and its derivative along one line through its inputs.

`pictures()` says of every public function which line that is, and with which hyper-parameters; the
numbers are xent_jax's own, in float64, and the slopes `jax.grad`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent_jax import losses
from xent_jax.typing import Array

Curve = Callable[[Array], Array]
Variants = Mapping[str, Mapping[str, Any]]

_CLASSES = 10
# Class 0 has a hundred times the examples of class 9.
_COUNTS = np.round(5000.0 * 0.01 ** (np.arange(_CLASSES) / (_CLASSES - 1)))
_PRIOR = _COUNTS / _COUNTS.sum()
_EVEN = np.full(_CLASSES, 1.0 / _CLASSES)
_ONCE: Variants = {"": {}}


class Picture(NamedTuple):
    """Curves over one axis.

    Attributes:
      curves: functions of a number, by the name that the legend shows.
      axis: what the number is.
      low: where the axis begins.
      high: where it ends.
      grey: the name in `GREY` of what to compare with, if anything.
      value: what the functions return.
      slope: whether the derivative is drawn too, which it is not of maps that no one descends.
    """

    curves: Mapping[str, Curve]
    axis: str
    low: float
    high: float
    grey: str = ""
    value: str = "loss"
    slope: bool = True

    @property
    def points(self) -> np.ndarray:
        """Returns where the curves are computed: often enough to show a corner as one."""
        return np.linspace(self.low, self.high, 61)


# What has no line to be drawn along, and why.
WITHOUT_PICTURE = {
    "adaptive_softmax_log_probabilities": "the loss that takes them is drawn",
    "anchor_point_transition_matrix": "a matrix estimated from a whole data set",
    "cosine_similarities": "the losses that take them are drawn",
    "cross_entropy_method": "a search",
    "cutmix": "it mixes images at random",
    "fgsm": "a step in the space of inputs",
    "init_early_learning_regularization_state": "zeros",
    "init_equalization_v2_state": "zeros",
    "init_gradient_harmonising_state": "zeros",
    "init_seesaw_state": "zeros",
    "maml_adapt": "steps in the space of parameters",
    "mixed_loss": "a mean of the loss it is given",
    "mixup": "it mixes images at random",
    "pgd": "steps in the space of inputs",
    "virtual_adversarial_perturbation": "a step in the space of inputs",
    "viterbi_decode": "a path, which jumps",
}


def pictures() -> dict[str, Picture]:
    """Returns the picture of every public function that has one, by its name."""
    families = (
        *(_of_the_label, _of_a_target, _of_rare_classes, _of_cosines, _of_answers, _of_sets),
        *(_of_distributions, _of_predictions, _of_pairs, _of_pairs_of_arrays, _of_distances),
        *(_of_policies, _of_sequences, _of_large_vocabularies, _of_ordered_classes, _of_values),
        *(_of_episodes, _of_weights, _of_sparse_maps, _of_others),
    )
    return {name: picture for family in families for name, picture in family().items()}


def numbers(picture: Picture) -> dict[str, dict[str, np.ndarray]]:
    """Returns the value and slope of each curve at the points, from one compiled call."""

    def along(points: Array) -> list[dict[str, Array]]:
        return [_along(curve, points, picture.slope) for curve in picture.curves.values()]

    # What is computed once is not worth compiling well.
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    with jax.enable_x64(True):
        found = jax.jit(along, compiler_options=quickly)(jnp.asarray(picture.points))
        return dict(zip(picture.curves, jax.tree.map(np.asarray, found), strict=True))


def _along(curve: Curve, points: Array, slope: bool) -> dict[str, Array]:
    if not slope:
        return {"value": jax.vmap(curve)(points)}
    value, derivative = jax.vmap(jax.value_and_grad(curve))(points)
    return {"value": value, "slope": derivative}


def sweep(**values: tuple[Any, ...]) -> Variants:
    """Returns one curve per value of a hyper-parameter."""
    ((name, settings),) = values.items()
    return {f"{name} = {_shown(value)}": {name: value} for value in settings}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def _curves(name: str, call: Callable[..., Array], variants: Variants) -> dict[str, Curve]:
    function = getattr(losses, name)

    def curve(keywords: Mapping[str, Any]) -> Curve:
        return lambda x: call(function, x, **keywords)

    return {label: curve(keywords) for label, keywords in variants.items()}


def _family(
    rows: Mapping[str, Variants], call: Callable[..., Array], axis: str, **options: Any
) -> dict[str, Picture]:
    return {
        name: Picture(_curves(name, call, variants), axis, **options)
        for name, variants in rows.items()
    }


def _first(result: Any) -> Array:
    """Returns the loss alone where a new state or a count comes with it."""
    return result[0] if isinstance(result, tuple) else result


def _raised(x: Array, index: int = 0, size: int = _CLASSES) -> Array:
    """Returns x at one place and 0 elsewhere."""
    return jnp.where(jnp.arange(size) == index, x, jnp.zeros_like(x))


def _at(value: float, index: int = 0) -> np.ndarray:
    return np.where(np.arange(_CLASSES) == index, value, 0.0)


_LABEL_AXIS = "logit of the label (the nine others are 0)"
_MARGINS = {"low": -6.0, "high": 6.0}


def _label_loss(loss: Callable[..., Any], x: Array, label: int = 0, **keywords: Any) -> Array:
    return _first(loss(_raised(x, label), jnp.asarray(label), **keywords))


def _cross_entropy(x: Array) -> Array:
    return _label_loss(losses.softmax_cross_entropy_with_integer_labels, x)


def _noise(*rates: float) -> Variants:
    def matrix(rate: float) -> np.ndarray:
        return (1.0 - rate) * np.eye(_CLASSES) + rate * (1.0 - np.eye(_CLASSES)) / (_CLASSES - 1)

    return {f"{rate:.0%} of labels wrong": {"transition_matrix": matrix(rate)} for rate in rates}


def _of_the_label() -> dict[str, Picture]:
    peers = {"peer_logits": np.zeros(_CLASSES), "peer_labels": np.asarray(1)}
    teacher = {"teacher_logits": _at(2.0)}
    rows: dict[str, Variants] = {
        # categorical
        "brier_score": _ONCE,
        "confidence_penalty": sweep(beta=(0.1, 0.5)),
        "multiclass_hinge_loss": _ONCE,
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
        "mean_absolute_error": _ONCE,
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
        "normalized_cross_entropy": _ONCE,
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
            f"memory of {what}": {"state": 0.7 * _at(1.0, index)[None], "indices": np.asarray(0)}
            for what, index in (("the label", 0), ("another class", 1))
        },
        "hard_bootstrap": sweep(beta=(0.8, 0.5)),
        "soft_bootstrap": sweep(beta=(0.95, 0.7)),
        "joint_optimization": _ONCE,
        "negative_learning": _ONCE,
        "peer_loss": {
            f"alpha = {alpha:g}": {"alpha": alpha, "class_prior": _EVEN} for alpha in (0.5, 1.0)
        },
        # sparse maps
        "entmax15_loss": _ONCE,
        "entmax_loss": sweep(alpha=(1.25, 1.5, 2.0)),
        "multiclass_perceptron_loss": _ONCE,
        "multiclass_sparsemax_loss": _ONCE,
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
    return _family(rows, _label_loss, _LABEL_AXIS, **_MARGINS, grey="cross-entropy")


def _of_a_target() -> dict[str, Picture]:
    """Of losses whose labels are one number per class."""

    def call(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(_raised(x), jnp.asarray(_at(1.0)), **keywords)

    def soft(loss: Callable[..., Any], x: Array, share: float) -> Array:
        rest = (1.0 - share) / (_CLASSES - 1)
        return loss(_raised(x), jnp.asarray(_at(share - rest) + rest))

    rows = {"list_mle": _ONCE, "pairwise_logistic": _ONCE, "ranking_softmax_loss": _ONCE}
    axis = "score of the one relevant item (the nine others are 0)"
    targets: dict[str, Variants] = {
        "softmax_cross_entropy": {f"target {share:g}": {"share": share} for share in (0.9, 0.6)}
    }
    return _family(rows, call, axis, **_MARGINS, grey="cross-entropy") | _family(
        targets,
        soft,
        "logit of the class with the most of the target",
        **_MARGINS,
        grey="cross-entropy",
    )


def _frequent_and_rare(**context: Any) -> dict[str, Mapping[str, Any]]:
    return {
        "a frequent class": {"label": 0, **context},
        "a rare class": {"label": _CLASSES - 1, **context},
    }


def _of_rare_classes() -> dict[str, Picture]:
    counts, prior = {"class_counts": _COUNTS}, {"class_prior": _PRIOR}
    pushed = {
        f"negatives {ratio:g} times the positives": {
            "state": losses.init_equalization_v2_state(_CLASSES)._replace(
                positive=np.ones(_CLASSES), negative=np.full(_CLASSES, ratio)
            )
        }
        for ratio in (1.0, 5.0)
    }
    rows: dict[str, Variants] = {
        "balanced_softmax": _frequent_and_rare(**counts),
        "class_balanced_focal_loss": _frequent_and_rare(**counts),
        "class_dependent_temperature": _frequent_and_rare(**counts),
        "equalization": _frequent_and_rare(**prior),
        "equalization_v2": pushed,
        "influence_balanced": _frequent_and_rare(features=np.ones(8), **counts),
        "label_aware_smoothing": _frequent_and_rare(**counts),
        "logit_adjusted": _frequent_and_rare(**prior),
        "seesaw": _frequent_and_rare(state=_COUNTS.astype(np.int32)),
        "vector_scaling": _frequent_and_rare(**counts),
    }
    return _family(rows, _label_loss, _LABEL_AXIS, **_MARGINS, grey="cross-entropy")


def _of_cosines() -> dict[str, Picture]:
    def one_of_a_batch(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        """Of losses per proxy: the example of class 0 moves, those of other classes do not."""
        cosines = jnp.stack([_raised(x), *jnp.zeros((3, _CLASSES))])
        return loss(cosines, jnp.arange(4), **keywords)[0]

    def centres(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        cosines = jnp.stack([_raised(x), jnp.zeros(_CLASSES)], axis=-1)
        return loss(cosines, jnp.asarray(0), **keywords)

    axis, ends = "cosine of the label (the others are 0)", {"low": -0.98, "high": 0.98}
    rows: dict[str, Variants] = {
        "arcface": sweep(margin=(0.0, 0.5)),
        "cosface": sweep(margin=(0.0, 0.35)),
        "cosine_softmax": sweep(scale=(5.0, 10.0, 20.0)),
        "ldam": _frequent_and_rare(class_counts=_COUNTS),
        "negative_margin": sweep(margin=(0.0, -0.3)),
        "normface": sweep(scale=(10.0, 20.0)),
        "proxy_nca": sweep(scale=(1.0, 3.0)),
        "sphereface": sweep(margin=(1.0, 2.0, 4.0)),
    }
    return (
        _family(rows, _label_loss, axis, **ends)
        | _family({"proxy_anchor": sweep(scale=(16.0, 32.0))}, one_of_a_batch, axis, **ends)
        | _family({"soft_triple": sweep(gamma=(0.05, 0.1, 0.5))}, centres, axis, **ends)
    )


def _answers(**context: Any) -> dict[str, Mapping[str, Any]]:
    return {"label 1": {"label": 1.0, **context}, "label 0": {"label": 0.0, **context}}


def _binary_loss(loss: Callable[..., Any], x: Array, label: float, **keywords: Any) -> Array:
    return _first(loss(x, jnp.asarray(label, x.dtype), **keywords))


def _sigmoid_cross_entropy(label: float) -> Curve:
    return lambda x: _binary_loss(losses.sigmoid_binary_cross_entropy, x, label)


def _of_answers() -> dict[str, Picture]:
    """Of losses of yes or no."""

    def one_of_ten(loss: Callable[..., Any], x: Array, index: int, label: float, **keywords: Any):
        """The label in question is not the only one of its example."""
        labels = _at(1.0, 5) + _at(label, index)
        return loss(_raised(x, index), jnp.asarray(labels), **keywords)[index]

    def set_of_ten(loss: Callable[..., Any], x: Array, label: float) -> Array:
        return loss(_raised(x), jnp.asarray(_at(label)))

    def logit(p: Array) -> Array:
        return jnp.log(p) - jnp.log1p(-p)

    # After batches whose errors were mostly small, as a detector's are.
    sizes = 0.5 ** np.arange(30.0)
    state = losses.init_gradient_harmonising_state()._replace(
        counts=sizes / sizes.sum(), weight=np.asarray(1.0)
    )
    signs = {"target 1": {"label": 1.0}, "target -1": {"label": -1.0}}
    rows: dict[str, Variants] = {
        "asymmetric_loss": _answers(),
        "gradient_harmonising": _answers(state=state),
        "hinge_loss": signs,
        "perceptron_loss": signs,
        "sigmoid_focal_loss": _answers(),
        "sparsemax_loss": _answers(),
    }
    detectors = {
        f"label {label:g}, {kind}": {"label": label, "index": index}
        for label in (1.0, 0.0)
        for kind, index in (("frequent", 0), ("rare", _CLASSES - 1))
    }
    among = {
        "distribution_balanced": {
            label: {**keywords, "class_counts": _COUNTS, "num_examples": 20000}
            for label, keywords in detectors.items()
        },
        "sigmoid_equalization": {
            label: {**keywords, "class_prior": _COUNTS / 100_000}
            for label, keywords in detectors.items()
        },
    }
    axis, probability = "logit", {"low": 0.02, "high": 0.98}
    smoothed = {
        label: {**keywords, "label_smoothing": 0.1} for label, keywords in _answers().items()
    }
    return {
        **_family(rows, _binary_loss, axis, **_MARGINS, grey="binary cross-entropy"),
        **_family(among, one_of_ten, axis, **_MARGINS, grey="binary cross-entropy"),
        **_family(
            {
                "sigmoid_binary_cross_entropy": {
                    **_answers(),
                    **{f"{label}, smoothed": value for label, value in smoothed.items()},
                }
            },
            _binary_loss,
            axis,
            **_MARGINS,
        ),
        **_family(
            {"binary_cross_entropy_from_probabilities": _answers()},
            _binary_loss,
            "probability",
            **probability,
        ),
        **_family(
            {"zlpr_multilabel": _answers()},
            set_of_ten,
            "logit of one class (the nine others are 0, and no labels)",
            **_MARGINS,
        ),
    }


def _of_sets() -> dict[str, Picture]:
    """Of losses of a set, here of ten elements, all of which are taken to be right alike."""

    def binary(loss: Callable[..., Any], x: Array, positives: int = 4, **keywords: Any) -> Array:
        labels = jnp.asarray((np.arange(_CLASSES) < positives).astype(float))
        return loss((x * (2.0 * labels - 1.0))[None], labels[None], **keywords)[0]

    def misses(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        labels = jnp.asarray((np.arange(_CLASSES) < 4).astype(float))
        return loss(jnp.where(labels == 1.0, x, -2.0)[None], labels[None], **keywords)[0]

    def classes(loss: Callable[..., Any], x: Array) -> Array:
        labels = jnp.arange(_CLASSES) % 3
        return loss((x * jax.nn.one_hot(labels, 3, dtype=x.dtype))[None], labels[None])[0]

    def shares_of(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        """Of three classes, which have six, three and one of the elements."""
        labels = jax.nn.one_hot(jnp.asarray([0] * 6 + [1] * 3 + [2]), 3, dtype=x.dtype)
        return loss((x * labels)[None], labels[None], **keywords)[0]

    axis = "logit of every element, counted towards its label"
    shares = {f"{n} of 10 are positive": {"positives": n} for n in (1, 4)}
    rows: dict[str, Variants] = {
        "binary_dice_loss": shares,
        "lovasz_hinge": _ONCE,
    }
    indices: dict[str, Variants] = {
        "tversky": {
            f"alpha = {a:g}, beta = {b:g}": {"alpha": a, "beta": b}
            for a, b in ((0.5, 0.5), (0.1, 0.9))
        }
    }
    return {
        **_family(rows, binary, axis, **_MARGINS),
        **_family(
            {
                "dice_loss": sweep(smooth=(0.0, 1.0)),
                "multiclass_generalized_dice_loss": sweep(smooth=(0.0, 1.0)),
            },
            shares_of,
            "logit of every element's label",
            **_MARGINS,
        ),
        **_family({"lovasz_softmax": _ONCE}, classes, "logit of every element's label", **_MARGINS),
        **_family(
            indices, misses, "logit of the 4 positives of 10 (the negatives are at -2)", **_MARGINS
        ),
    }


def _pair(t: Array) -> Array:
    return jnp.stack([t, 1.0 - t])


def _of_distributions() -> dict[str, Picture]:
    """Of functions of the distribution (t, 1 - t)."""
    fair, uneven = np.asarray([0.5, 0.5]), np.asarray([0.8, 0.2])
    against = {"q = (0.5, 0.5)": {"other": fair}, "q = (0.8, 0.2)": {"other": uneven}}

    def alone(function: Callable[..., Any], t: Array, **keywords: Any) -> Array:
        return function(_pair(t), **keywords)

    def with_other(function: Callable[..., Any], t: Array, other: np.ndarray, **keywords: Any):
        return function(_pair(t), jnp.asarray(other), **keywords)

    def after_other(function: Callable[..., Any], t: Array, other: np.ndarray) -> Array:
        return function(jnp.asarray(other), _pair(t))

    def of_logarithms(function: Callable[..., Any], t: Array, other: np.ndarray) -> Array:
        return function(jnp.log(_pair(t)), jnp.asarray(other))

    def both_logarithms(function: Callable[..., Any], t: Array, other: np.ndarray) -> Array:
        return function(jnp.log(_pair(t)), jnp.log(jnp.asarray(other)))

    def joint(function: Callable[..., Any], t: Array) -> Array:
        return function(0.5 * jnp.stack([_pair(t), _pair(1.0 - t)]))

    def of_label(function: Callable[..., Any], t: Array) -> Array:
        rest = jnp.broadcast_to((1.0 - t) / (_CLASSES - 1), (_CLASSES,))
        return function(jnp.where(jnp.arange(_CLASSES) == 0, t, rest), jnp.asarray(0))

    def unnormalised(function: Callable[..., Any], t: Array, target: float) -> Array:
        return function(jnp.log(t)[None], jnp.asarray([target]))

    ends = {"low": 0.02, "high": 0.98}
    given = {f"p{key[1:]}": value for key, value in against.items()}
    targets = {f"target{key[1:]}": value for key, value in against.items()}
    renyi = {f"alpha = {alpha:g}": {"other": uneven, "alpha": alpha} for alpha in (0.5, 1.0, 2.0)}
    p, q = "t, of p = (t, 1 - t)", "t, of q = (t, 1 - t)"
    return {
        **_family(
            {"entropy": {"nats": {}, "bits": {"base": 2.0}}, "perplexity": _ONCE},
            alone,
            p,
            value="value",
            **ends,
        ),
        **_family({"tsallis_entropy": sweep(q=(0.5, 1.0, 2.0))}, alone, p, value="value", **ends),
        **_family(
            {"cross_entropy": given, "relative_entropy": given},
            after_other,
            q,
            value="value",
            **ends,
        ),
        **_family(
            {
                "jensen_shannon_divergence": against,
                "total_variation": against,
                "renyi_divergence": renyi,
            },
            with_other,
            p,
            value="value",
            **ends,
        ),
        **_family(
            {"kl_divergence": targets}, of_logarithms, f"prediction {q}", value="value", **ends
        ),
        **_family(
            {"kl_divergence_with_log_targets": targets},
            both_logarithms,
            f"prediction {q}",
            value="value",
            **ends,
        ),
        **_family(
            {"mutual_information": _ONCE},
            joint,
            "probability that Y is X, two fair coins",
            value="value",
            **ends,
        ),
        **_family(
            {
                "generalized_kl_divergence": {
                    "target 1": {"target": 1.0},
                    "target 2": {"target": 2.0},
                }
            },
            unnormalised,
            "prediction of one number",
            low=0.05,
            high=4.0,
            value="value",
        ),
        **_family(
            {"cross_entropy_from_probabilities": _ONCE},
            of_label,
            "probability of the label",
            **ends,
        ),
    }


def _of_predictions() -> dict[str, Picture]:
    """Of losses of a prediction that has no label, or of two predictions."""

    def alone(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(_raised(x), **keywords)

    def views(loss: Callable[..., Any], x: Array, other: float) -> Array:
        return loss(_raised(x), jnp.asarray(_at(other)))

    def augmented(loss: Callable[..., Any], x: Array, other: float) -> Array:
        return loss(_raised(x), jnp.asarray(0), jnp.asarray(_at(other)), jnp.asarray(_at(other)))

    def attacked(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        clean = jnp.asarray(_at(3.0))
        return loss(clean, jnp.asarray(0), _raised(x), **keywords)

    sure = {
        "weak view unsure": {"weak_logits": _at(3.0)},
        "weak view sure": {"weak_logits": _at(6.0)},
    }
    others = {f"the other at {other:g}": {"other": other} for other in (0.0, 3.0)}
    views_at = {f"views at {other:g}": {"other": other} for other in (0.0, 3.0)}
    target = {
        f"target_temperature = {temperature:g}": {
            "target_logits": _at(2.0),
            "target_temperature": temperature,
        }
        for temperature in (1.0, 0.5)
    }
    one = "logit of one class (the nine others are 0)"
    return {
        **_family(
            {
                "consistency": target,
                "entropy_bonus": _ONCE,
                "entropy_minimisation": _ONCE,
                "fixmatch": sure,
                "pseudo_label": sweep(threshold=(0.0, 0.8)),
            },
            alone,
            one,
            **_MARGINS,
        ),
        **_family(
            {"jensen_shannon_consistency": others}, views, f"{one}, in one of two views", **_MARGINS
        ),
        **_family({"augmix": views_at}, augmented, _LABEL_AXIS, **_MARGINS, grey="cross-entropy"),
        **_family(
            {"trades": sweep(beta=(1.0, 6.0))},
            attacked,
            "logit of the label under attack (3 without)",
            **_MARGINS,
        ),
    }


_NEGATIVES = 4
_PAIR_AXIS, _COSINES = "cosine of anchor and positive", {"low": -0.95, "high": 0.95}


def _anchor() -> np.ndarray:
    return np.eye(_NEGATIVES + 2)[0]


def _positive(cosine: Array) -> Array:
    """Returns a vector of length 1 at that cosine from the anchor, orthogonal to the negatives."""
    return jnp.stack([cosine, jnp.sqrt(1.0 - cosine**2), *jnp.zeros((_NEGATIVES,), cosine.dtype)])


def _negatives() -> np.ndarray:
    return np.eye(_NEGATIVES + 2)[2:]


def _of_pairs() -> dict[str, Picture]:
    def call(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        rows = [jnp.asarray(_anchor()), _positive(x), *jnp.asarray(_negatives())]
        labels = jnp.asarray([0, 0, *range(1, _NEGATIVES + 1)])
        return loss(jnp.stack(rows), labels, **keywords)[0]

    rows: dict[str, Variants] = {
        "batch_hard_triplet": {
            "soft margin": {"margin": None},
            "margin = 0.2": {"margin": 0.2},
        },
        "batch_semi_hard_triplet": sweep(margin=(0.2, 1.0)),
        "decoupled_contrastive": sweep(temperature=(0.5, 0.1)),
        "circle_loss": sweep(gamma=(20.0, 80.0)),
        "lifted_structure": sweep(margin=(0.5, 1.0)),
        "multi_similarity": sweep(alpha=(2.0, 5.0)),
        "neighbourhood_component_analysis": sweep(temperature=(1.0, 0.3)),
        "ntxent": sweep(temperature=(0.5, 0.1, 0.07)),
        "supervised_contrastive": sweep(temperature=(0.5, 0.1)),
        "tuplet_margin": sweep(scale=(16.0, 64.0)),
    }
    return _family(rows, call, f"{_PAIR_AXIS} (0 with the four negatives)", **_COSINES)


def _of_pairs_of_arrays() -> dict[str, Picture]:
    def call(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        negatives = jnp.asarray(_negatives())
        anchors = jnp.stack([jnp.asarray(_anchor()), *negatives])
        return loss(anchors, jnp.stack([_positive(x), *negatives]), **keywords)[0]

    rows: dict[str, Variants] = {
        "clip_loss": {
            "log_scale = log 5": {"log_scale": np.log(5.0)},
            "log_scale = log(1 / 0.07)": {},
        },
        "info_nce": sweep(temperature=(0.5, 0.2, 0.07)),
        "n_pairs": _ONCE,
        "siglip_loss": sweep(bias=(0.0, -10.0)),
    }
    return _family(rows, call, f"{_PAIR_AXIS} (0 with the four negatives)", **_COSINES)


def _of_distances() -> dict[str, Picture]:
    def pair(loss: Callable[..., Any], x: Array, label: int) -> Array:
        other = jnp.stack([x, jnp.zeros_like(x)])
        return loss(jnp.zeros((1, 2)), other[None], jnp.asarray([label]))[0]

    def triplet(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        positive = jnp.stack([x, jnp.zeros_like(x)])
        return loss(jnp.zeros(2), positive, jnp.asarray([0.0, 1.5]), **keywords)

    belong = {"a pair": {"label": 1}, "no pair": {"label": 0}}
    ends = {"low": 0.02, "high": 2.0}
    return _family(
        {"contrastive_loss": belong}, pair, "distance of the two (margin 1)", **ends
    ) | _family(
        {"triplet_margin_loss": sweep(margin=(0.5, 1.0))},
        triplet,
        "distance of anchor and positive (1.5 to the negative)",
        **ends,
    )


def _of_policies() -> dict[str, Picture]:
    def preference(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        zero = jnp.zeros_like(x)
        return loss(x, zero, zero, zero, **keywords)

    outcomes = (("a good action", 1.0), ("a bad action", -1.0))
    advantages = {name: {"advantages": np.asarray(value)} for name, value in outcomes}
    before = {"old_log_probabilities": np.asarray(np.log(1.0 / _CLASSES))}
    clipped = {name: {**keywords, **before} for name, keywords in advantages.items()}
    axis = "logit of the action taken (the nine others are 0)"
    return {
        **_family({"policy_gradient": advantages}, _label_loss, axis, **_MARGINS),
        **_family({"ppo_clip": clipped}, _label_loss, f"{axis}, 0 before", low=-2.0, high=2.0),
        **_family(
            {"direct_preference": sweep(beta=(0.1, 0.5, 1.0))},
            preference,
            "log-odds of the better answer, less the reference's",
            **_MARGINS,
        ),
    }


def _of_sequences() -> dict[str, Picture]:
    """Of short sequences, every right symbol of which has the same logit."""
    tags = np.asarray([0, 1, 1, 2, 0])

    def scores(x: Array, symbols: np.ndarray, size: int = 4) -> Array:
        return x * jax.nn.one_hot(jnp.asarray(symbols), size, dtype=x.dtype)

    def tokens(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(_raised(x)[None], jnp.zeros(1, int), **keywords)[0]

    def chain(loss: Callable[..., Any], x: Array, stay: float) -> Array:
        return loss(scores(x, tags)[None], jnp.asarray(tags)[None], jnp.asarray(_stay(stay)))[0]

    def marginal(function: Callable[..., Any], x: Array, stay: float) -> Array:
        emissions = scores(x, np.asarray([0, 0, 1, 0, 0])) * jnp.asarray([1.0, 1, 0, 1, 1])[:, None]
        return function(emissions[None], jnp.asarray(_stay(stay)))[0, 2, 0]

    def unwanted(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(_raised(x, 1), jnp.asarray(0), jnp.asarray(_at(1.0, 1)), **keywords)

    def frames(loss: Callable[..., Any], x: Array, count: int) -> Array:
        """The symbols 1 and 2, each in the half of the frames that is its own."""
        spoken = 1 + (np.arange(count) >= count // 2)
        none = jnp.zeros((1, count), x.dtype)
        return loss(
            scores(x, spoken)[None], none, jnp.asarray([[1, 2]]), jnp.zeros((1, 2), x.dtype)
        )[0]

    def lattice(loss: Callable[..., Any], x: Array, count: int) -> Array:
        """After u symbols the next is u + 1, and blank when both are out."""
        upcoming = jnp.broadcast_to(scores(x, np.asarray([1, 2, 0])), (1, count, 3, 4))
        none = jnp.zeros((1, count), x.dtype)
        return loss(upcoming, none, jnp.asarray([[1, 2]]), jnp.zeros((1, 2), x.dtype))[0]

    def _stay(score: float) -> np.ndarray:
        return score * np.eye(4)

    right = "logit of every right symbol (the others are 0)"
    lengths = {f"{count} frames": {"count": count} for count in (2, 4, 8)}
    staying = {f"staying scores {score:g}": {"stay": score} for score in (0.0, 2.0)}
    return {
        **_family(
            {"token_cross_entropy": sweep(z_loss=(0.0, 0.1))}, tokens, _LABEL_AXIS, **_MARGINS
        ),
        **_family({"linear_chain_crf": staying}, chain, right, **_MARGINS),
        **_family(
            {"linear_chain_marginals": staying},
            marginal,
            "score of a tag at its two neighbours on each side",
            **_MARGINS,
            value="probability of the tag",
        ),
        **_family(
            {"unlikelihood": sweep(alpha=(0.0, 0.5, 1.0))},
            unwanted,
            "logit of an unwanted token (the label's is 0)",
            **_MARGINS,
        ),
        **_family({"ctc_loss": lengths}, frames, right, **_MARGINS),
        **_family({"rnn_transducer": lengths}, lattice, right, **_MARGINS),
    }


def _of_large_vocabularies() -> dict[str, Picture]:
    """With one feature, so that it is the label's logit."""

    def adaptive(loss: Callable[..., Any], x: Array, place: str) -> Array:
        in_head = place == "head"
        head = _raised(x, 0 if in_head else 3, 4)[:, None]  # three classes and one cluster
        tail = _raised(x, 0, 6)[:, None]
        tails = [(jnp.ones((1, 1), x.dtype), tail)]
        label = jnp.asarray([0 if in_head else 3])
        return loss(jnp.ones((1, 1), x.dtype), label, head, tails)[0]

    def sampled(loss: Callable[..., Any], x: Array, count: int) -> Array:
        weights = jnp.asarray(_at(1.0))[:, None]
        expected = jnp.full(_CLASSES, np.log(count / _CLASSES))
        drawn = 1 + jnp.arange(count) % (_CLASSES - 1)
        return loss(x[None, None], jnp.asarray([0]), weights, drawn, expected)[0]

    places = {"a class of the head": {"place": "head"}, "a class of a tail": {"place": "tail"}}
    samples = {f"{count} samples": {"count": count} for count in (2, 9)}
    return _family(
        {"adaptive_softmax": places},
        adaptive,
        "logit of the label, and of its cluster (the others are 0)",
        **_MARGINS,
    ) | _family(
        {"noise_contrastive_estimation": samples, "sampled_softmax": samples},
        sampled,
        _LABEL_AXIS,
        **_MARGINS,
        grey="cross-entropy",
    )


def _of_ordered_classes() -> dict[str, Picture]:
    """Of a score with fixed biases, and the classes 0 to 4 in between them."""
    biases = np.asarray([3.0, 1.0, -1.0, -3.0])

    def loss_of(loss: Callable[..., Any], x: Array, label: int) -> Array:
        return loss(x + jnp.asarray(biases), jnp.asarray(label))

    def probability(function: Callable[..., Any], x: Array, label: int) -> Array:
        return function(x + jnp.asarray(biases))[label]

    labels = {f"label {label}": {"label": label} for label in (0, 2, 4)}
    classes = {f"class {label}": {"label": label} for label in range(5)}
    axis = "score (thresholds at -3, -1, 1 and 3)"
    return _family(
        {"coral": labels, "corn": labels, "cumulative_link": labels}, loss_of, axis, **_MARGINS
    ) | _family(
        {"coral_probabilities": classes, "corn_probabilities": classes},
        probability,
        axis,
        **_MARGINS,
        value="probability",
        slope=False,
    )


def _of_values() -> dict[str, Picture]:
    """Of regression over ten bins or atoms from 0 to 9."""
    atoms = np.arange(10.0)
    edges = np.arange(11.0) - 0.5

    def histogram(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(_raised(x, 5), jnp.asarray(5.0), jnp.asarray(edges), **keywords)

    def atoms_of(loss: Callable[..., Any], x: Array, value: float) -> Array:
        return loss(_raised(x, 5), jnp.asarray(value), jnp.asarray(atoms))

    def mean(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(_raised(x, index), jnp.asarray(atoms))

    def in_bin(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(x, jnp.asarray(edges))[index]

    def on_atom(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(x, jnp.asarray(atoms))[index]

    def moved(function: Callable[..., Any], x: Array, index: int) -> Array:
        source = x + jnp.asarray([0.0, 3.0])  # a third of the mass lies 3 above the rest
        return function(jnp.asarray([2 / 3, 1 / 3]), source, jnp.asarray(atoms))[index]

    places = {f"{index}": {"index": index} for index in (4, 5, 6)}
    bins = {f"bin around {name}": value for name, value in places.items()}
    at = {f"atom {name}": value for name, value in places.items()}
    maps: dict[str, Any] = {"low": 2.0, "high": 8.0, "value": "probability", "slope": False}
    return {
        **_family(
            {"hl_gauss": sweep(sigma_ratio=(0.25, 0.75, 2.0))},
            histogram,
            "logit of the value's bin (the nine others are 0)",
            **_MARGINS,
            grey="cross-entropy",
        ),
        **_family(
            {"two_hot": {f"value {value:g}": {"value": value} for value in (5.0, 5.25, 5.5)}},
            atoms_of,
            "logit of atom 5 (the nine others are 0)",
            **_MARGINS,
            grey="cross-entropy",
        ),
        **_family(
            {"expected_value": {f"of atom {index}": {"index": index} for index in (0, 4, 9)}},
            mean,
            "logit of one of the atoms 0 ... 9 (the others are 0)",
            **_MARGINS,
            value="expected value",
        ),
        **_family({"hl_gauss_targets": bins}, in_bin, "value", **maps),
        **_family({"two_hot_targets": at}, on_atom, "value", **maps),
        **_family(
            {"categorical_projection": at},
            moved,
            "place of two thirds (the last third: 3 above)",
            **(maps | {"low": 0.0, "high": 6.0}),
        ),
    }


def _of_episodes() -> dict[str, Picture]:
    """Of a query on the way from its own class's support to another class's."""
    support = {
        "support_embeddings": np.asarray([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]]),
        "support_labels": np.asarray([0, 0, 1, 1]),
        "num_classes": 2,
    }

    def query(x: Array) -> Array:
        return jnp.stack([1.0 - x, x])

    def loss_of(loss: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return loss(query(x), jnp.asarray(0), **support, **keywords)

    def logit(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(query(x), **support)[index]

    axis, ends = "way from the own class (0) to the other one (1)", {"low": -0.5, "high": 1.5}
    both = {"own class": {"index": 0}, "other class": {"index": 1}}
    rows: dict[str, Variants] = {
        "matching_network": sweep(scale=(1.0, 10.0)),
        "prototypical": _ONCE,
        "ridge_regression": sweep(penalty=(1.0, 50.0)),
    }
    names = ("matching_network_logits", "prototypical_logits", "ridge_regression_logits")
    return _family(rows, loss_of, axis, **ends) | _family(
        dict.fromkeys(names, both), logit, axis, **ends, value="logit", slope=False
    )


def _of_weights() -> dict[str, Picture]:
    """Of weights and schedules, and what they do to logits."""

    def weight(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        counts = jnp.asarray([1000.0] * _CLASSES)
        return function(jnp.where(jnp.arange(_CLASSES) == 0, 10.0**x, counts), **keywords)[0]

    def deferred(function: Callable[..., Any], x: Array, index: int) -> Array:
        return function(jnp.asarray(_COUNTS), x)[index]

    def rate(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(x, **keywords)

    def adjusted(function: Callable[..., Any], x: Array, label: int, **keywords: Any) -> Array:
        return function(_raised(x, label), class_prior=jnp.asarray(_PRIOR), **keywords)[label]

    def norm(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(jnp.stack([x, jnp.zeros_like(x)])[None], **keywords)[0, 0]

    def chosen(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        others = jnp.linspace(0.0, 4.0, 9)
        mask = function(jnp.concatenate([x[None], others]), **keywords)
        return mask[0].astype(x.dtype)

    def kept(function: Callable[..., Any], x: Array) -> Array:
        """The number is cast, because a selection is of booleans."""
        return function(_raised(x), jnp.asarray(0)).astype(x.dtype)

    def smoothed(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(jnp.concatenate([x[None], (1.0 - x)[None], jnp.zeros(8)]), **keywords)[0]

    count_axis = "log10 of its examples (others have 1000)"
    counts = {"low": 0.0, "high": 4.0, "value": "weight", "slope": False}
    rates: Any = {"low": 0.0, "high": 20.0, "value": "part left out", "slope": False}
    classes = _frequent_and_rare()
    return {
        **_family(
            {
                "class_balanced_weights": sweep(beta=(0.99, 0.999, 0.9999)),
                "inverse_frequency_weights": sweep(power=(0.5, 1.0)),
            },
            weight,
            count_axis,
            **counts,
        ),
        **_family(
            {
                "deferred_reweighting_weights": {
                    name: {"index": keywords["label"]} for name, keywords in classes.items()
                }
            },
            deferred,
            "epoch",
            low=140.0,
            high=200.0,
            value="weight",
            slope=False,
        ),
        **_family(
            {"co_teaching_forget_rate": sweep(noise_rate=(0.2, 0.4))}, rate, "epoch", **rates
        ),
        **_family(
            {"smooth_labels": sweep(alpha=(0.0, 0.1, 0.3))},
            smoothed,
            "target of one of ten classes",
            low=0.0,
            high=1.0,
            value="smoothed target",
            slope=False,
        ),
        **_family(
            {"confidence_regularized_sieve": _ONCE},
            kept,
            _LABEL_AXIS,
            **_MARGINS,
            value="selected",
            slope=False,
        ),
        **_family(
            {"small_loss_selection": sweep(forget_rate=(0.2, 0.5))},
            chosen,
            "loss of one example (others 0, 0.5, ... 4)",
            low=-0.2,
            high=4.2,
            value="selected",
            slope=False,
        ),
        **_family(
            {"logit_adjustment_posthoc": classes},
            adjusted,
            "logit of one class",
            **_MARGINS,
            value="adjusted logit",
            slope=False,
        ),
        **_family(
            {"tau_normalise": sweep(tau=(0.0, 0.5, 1.0))},
            norm,
            "length of a class's weights",
            low=0.1,
            high=3.0,
            value="length after",
            slope=False,
        ),
    }


def _of_sparse_maps() -> dict[str, Picture]:
    def probability(function: Callable[..., Any], x: Array, **keywords: Any) -> Array:
        return function(_raised(x), **keywords)[0]

    rows: dict[str, Variants] = {
        "entmax": sweep(alpha=(1.25, 1.5, 2.0)),
        "entmax15": _ONCE,
        "sparsemax": _ONCE,
    }
    axis = "logit of one class (the nine others are 0)"
    options: Any = {"grey": "softmax", "value": "its probability"}
    return _family(rows, probability, axis, **_MARGINS, **options)


def _of_others() -> dict[str, Picture]:
    def of_real(loss: Callable[..., Any], x: Array, real: bool) -> Array:
        """The part of the other example is left out, which is a constant."""
        sure = jnp.full_like(x, 30.0)
        return loss(x, -sure) if real else loss(sure, x)

    def of_fake(loss: Callable[..., Any], x: Array) -> Array:
        return loss(x)

    def ranked(loss: Callable[..., Any], x: Array) -> Array:
        return loss(x, jnp.zeros_like(x))

    def weighed(loss: Callable[..., Any], x: Array, value: float, **keywords: Any) -> Array:
        return loss(jnp.full_like(x, value), x, **keywords)

    both = {"of a real example": {"real": True}, "of a generated example": {"real": False}}
    tasks = {
        f"loss {value:g}{', regression' * regression}": {"value": value, "regression": regression}
        for value, regression in ((0.5, False), (2.0, False), (2.0, True))
    }
    generators: dict[str, Variants] = {
        "gan_hinge_generator": _ONCE,
        "gan_minimax_generator": _ONCE,
        "gan_non_saturating_generator": _ONCE,
    }
    return {
        **_family(
            {"gan_discriminator": both, "gan_hinge_discriminator": both},
            of_real,
            "logit of one example",
            **_MARGINS,
        ),
        **_family(
            generators, of_fake, "the discriminator's logit of a generated example", **_MARGINS
        ),
        **_family(
            {"bayesian_personalised_ranking": _ONCE},
            ranked,
            "score of the chosen item, less the other's",
            **_MARGINS,
        ),
        **_family(
            {"multi_task_uncertainty": tasks},
            weighed,
            "log-variance",
            low=-3.0,
            high=3.0,
        ),
    }


def _softmax(x: Array) -> Array:
    return jax.nn.softmax(_raised(x))[0]


# What pictures compare with, each computed once.
GREY = {
    "cross-entropy": Picture({"cross-entropy": _cross_entropy}, "", **_MARGINS),
    "binary cross-entropy": Picture(
        {"label 1": _sigmoid_cross_entropy(1.0), "label 0": _sigmoid_cross_entropy(0.0)},
        "",
        **_MARGINS,
    ),
    "softmax": Picture({"softmax": _softmax}, "", **_MARGINS),
}
