"""Softmax over very many classes, without a logit for each of them.

The losses here take the last layer itself, features (B, D) and classifier weights (K, D), and
multiply only the rows they need. They serve training; the loss of all classes measures a model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import Examples, example_mask, floating, masked
from xent_jax.losses.softmax import label_log_probability, log_normalizer
from xent_jax.typing import Array, Bool, Float, Int


def sampled_softmax(
    features: Float[Array, "..."],
    labels: Int[Array, "..."],
    classifier_weights: Float[Array, "..."],
    sampled: Int[Array, "..."],
    log_expected_counts: Float[Array, "..."],
    *,
    biases: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy over the label and a few sampled classes instead of all of them.

    For vocabularies and catalogues of 10^5 classes and more.

    .. math::
      L = -\log \frac{e^{a_y}}{e^{a_y} + \sum_{s \in S, s \ne y} e^{a_s}}, \qquad
      a_k = w_k \cdot f + b_k - \log Q(k)

    If every class k is among the samples with probability Q(k), independently of the label and of
    the others, softmax(a) is the probability of each candidate to be the label, given that one of
    them is: so the loss is least at the scores that the loss of all classes is least at.

    Args:
      features: f, floating point, of shape (B, D).
      labels: y, integers in [0, K), of shape (B,).
      classifier_weights: w, floating point, of shape (K, D).
      sampled: S, integers in [0, K), of shape (N,) for the whole batch or (B, N), for instance of
        `jax.random.categorical(key, log_probabilities, shape=(N,))`. A sample that is the label is
        left out.
      log_expected_counts: log Q, of shape (K,), how often each class is expected among the samples:
        log(N q_k) for N independent draws of probability q_k. It is subtracted for the label too,
        as in TensorFlow, so that a number added to all of it changes nothing.
      biases: b, of shape (K,); 0 by default.
      where: True for the examples that count, of shape (B,); the others give loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per example in nats, at least 0, of shape (B,), in float32 (float64 for float64
      features); NaN where the label or a sample is outside [0, K). Its size depends on how was
      sampled: report the cross-entropy over all classes.

    Raises:
      TypeError: features or weights that are not floating point, labels or samples not integers.
      ValueError: shapes that do not fit.

    The gradient is that of the cross-entropy among the candidates: with p their softmax,
    :math:`\partial L / \partial w_k = (p_k - 1[k = y]) f` for the label and the samples, and 0 for
    the other rows.

    References:
      Jean et al., `On Using Very Large Target Vocabulary for Neural Machine Translation
      <https://arxiv.org/abs/1412.2007>`_, 2015, section 3. Bengio and Senecal, `Adaptive Importance
      Sampling to Accelerate Training of a Neural Probabilistic Language Model
      <https://doi.org/10.1109/TNN.2007.912312>`_, 2008.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> weights, log_counts = jnp.eye(4), jnp.full(4, jnp.log(2 / 4))
      >>> features, labels = jnp.array([[2.0, 0.0, 0.0, 0.0]]), jnp.array([0])
      >>> print(xent.sampled_softmax(features, labels, weights, jnp.array([0, 3]), log_counts))
      [0.1269]
    """
    examples, true, noise, hits = _candidates(
        features, labels, classifier_weights, sampled, log_expected_counts, biases, where
    )
    logits = jnp.concatenate([true[:, None], jnp.where(hits, -jnp.inf, noise)], axis=-1)
    return examples.finish(-label_log_probability(logits, jnp.zeros_like(examples.labels)))


def noise_contrastive_estimation(
    features: Float[Array, "..."],
    labels: Int[Array, "..."],
    classifier_weights: Float[Array, "..."],
    sampled: Int[Array, "..."],
    log_expected_counts: Float[Array, "..."],
    *,
    biases: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes noise-contrastive estimation: tell the label from noise, without a normaliser.

    The model learns scores that are log-probabilities by themselves, so that none has to be
    normalised, in training or later.

    .. math::
      L = -\log \sigma(a_y) - \sum_{s \in S} \log (1 - \sigma(a_s)), \qquad
      a_k = w_k \cdot f + b_k - \log Q(k)

    Args:
      features: f, floating point, of shape (B, D).
      labels: y, integers in [0, K), of shape (B,).
      classifier_weights: w, floating point, of shape (K, D).
      sampled: S, the noise, integers in [0, K), of shape (N,) for the whole batch or (B, N). A
        sample that happens to be the label stays noise, as the derivation asks.
      log_expected_counts: log Q, of shape (K,): log(N q_k) for N independent draws of probability
        q_k.
      biases: b, of shape (K,); 0 by default. Begin with -log K, so that the scores start as
        log-probabilities.
      where: True for the examples that count, of shape (B,); the others give loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per example in nats, at least 0, of shape (B,), in float32 (float64 for float64
      features); NaN where the label or a sample is outside [0, K).

    Raises:
      TypeError: features or weights that are not floating point, labels or samples not integers.
      ValueError: shapes that do not fit.

    The gradient with respect to a score is :math:`\sigma(a_y) - 1` for the label and
    :math:`\sigma(a_s)` for a sample; averaged over the noise it is 0 where the scores are the log-
    probabilities of the data.

    References:
      Gutmann and Hyvarinen, `Noise-contrastive estimation: A new estimation principle for
      unnormalized statistical models <https://proceedings.mlr.press/v9/gutmann10a.html>`_, 2010,
      section 2. Mnih and Teh, `A Fast and Simple Algorithm for Training Neural Probabilistic
      Language Models <https://arxiv.org/abs/1206.6426>`_, 2012, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> weights, log_counts = jnp.eye(4), jnp.full(4, jnp.log(2 / 4))
      >>> features, labels = jnp.array([[2.0, 0.0, 0.0, 0.0]]), jnp.array([0])
      >>> loss = xent.noise_contrastive_estimation
      >>> print(loss(features, labels, weights, jnp.array([2, 3]), log_counts))
      [2.2627]
    """
    examples, true, noise, _ = _candidates(
        features, labels, classifier_weights, sampled, log_expected_counts, biases, where
    )
    return examples.finish(jax.nn.softplus(-true) + jnp.sum(jax.nn.softplus(noise), axis=-1))


def _candidates(
    features: Array,
    labels: Array,
    classifier_weights: Array,
    sampled: Array,
    log_expected_counts: Array,
    biases: Array | None,
    where: Array | None,
) -> tuple[Examples, Array, Array, Array]:
    """Returns the examples, a_y of shape (B,), a_s of shape (B, N), and which samples are hits."""
    weights = floating("classifier_weights", classifier_weights)
    if weights.ndim != 2:
        raise ValueError(f"classifier_weights must have shape (K, D), got {weights.shape}")
    examples = _examples(features, labels, where, *weights.shape)
    features, sampled = examples.logits, _class_indices("sampled", sampled)
    if sampled.ndim not in (1, 2) or (sampled.ndim == 2 and len(sampled) != len(features)):
        raise ValueError(
            f"sampled must have shape (N,) or ({len(features)}, N), got {sampled.shape}"
        )
    weights = weights.astype(features.dtype)
    shift = -_per_class("log_expected_counts", log_expected_counts, weights)
    if biases is not None:
        shift = shift + _per_class("biases", biases, weights)
    inside = (sampled >= 0) & (sampled < len(weights))
    drawn = masked(sampled, inside)
    true = jnp.sum(features * weights[examples.labels], axis=-1) + shift[examples.labels]
    noise = _scores(features, weights[drawn]) + jnp.atleast_2d(shift[drawn])
    hits = jnp.atleast_2d(drawn) == examples.labels[:, None]
    drawn_inside = jnp.broadcast_to(jnp.all(inside, axis=-1), examples.labels.shape)
    return examples.only(drawn_inside | ~_counts(examples)), true, noise, hits


def _scores(features: Array, rows: Array) -> Array:
    """Returns (B, N) for rows (N, D) that the batch shares, or (B, N, D)."""
    return jnp.einsum("bd,nd->bn" if rows.ndim == 2 else "bd,bnd->bn", features, rows)


def _counts(examples: Examples) -> Array:
    ones = jnp.ones(examples.labels.shape, bool)
    return ones if examples.where is None else examples.where


def _per_class(name: str, array: Array, weights: Array) -> Array:
    array = floating(name, array)
    if array.shape != weights.shape[:1]:
        raise ValueError(f"{name} must have shape {weights.shape[:1]}, got {array.shape}")
    return array.astype(weights.dtype)


def _class_indices(name: str, indices: Array) -> Array:
    indices = jnp.asarray(indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"{name} must be integer classes, got {indices.dtype}")
    return indices.astype(jnp.int32)


def _examples(
    features: Array, labels: Array, where: Array | None, classes: int, width: int
) -> Examples:
    """Returns checked features (B, D), in place of logits, and labels in [0, classes)."""
    features, labels = floating("features", features), _class_indices("labels", labels)
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features must have shape (B, {width}), got {features.shape}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must have shape {features.shape[:1]}, got {labels.shape}")
    where = example_mask(where, features, "it masks examples")
    labels = masked(labels, where)
    valid = (labels >= 0) & (labels < classes)
    return Examples(masked(features, where), masked(labels, valid), valid, where)


def adaptive_softmax(
    features: Float[Array, "..."],
    labels: Int[Array, "..."],
    head: Float[Array, "..."],
    tails: Sequence[tuple[Float[Array, "..."], Float[Array, "..."]]],
    *,
    head_bias: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of a two-level softmax whose rare classes have small vectors.

    For vocabularies sorted by frequency. The head decides among the most frequent classes and the
    clusters of the others; a cluster's tail, behind a narrow projection, decides among its classes.

    .. math::
      L = \begin{cases} -\log p^{head}_y & y \text{ in the head} \\
      -\log p^{head}_{n + c} - \log p^{c}_{y - \text{first of } c} & y \text{ in cluster } c
      \end{cases}, \qquad p^{head} = \mathrm{softmax}(H f), \quad
      p^{c} = \mathrm{softmax}(V_c P_c f)

    Args:
      features: f, floating point, of shape (B, D).
      labels: y, integers in [0, K), class 0 the most frequent, of shape (B,).
      head: H, of shape (n + C, D): the n most frequent classes, then one row per cluster.
      tails: for each of the C clusters (P, V), of shapes (D_c, D) and (K_c, D_c): PyTorch's layout,
        where D_c = D / 4^c for c = 1, 2, ... Classes are n + sum K_c.
      head_bias: added to the head's logits, of shape (n + C,); none by default.
      where: True for the examples that count, of shape (B,); the others give loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per example in nats, at least 0, of shape (B,), in float32 (float64 for float64
      features); NaN where the label is outside [0, K). PyTorch's `AdaptiveLogSoftmaxWithLoss`
      returns the mean of these as `loss` and minus these as `output`.

    Raises:
      TypeError: features or weights that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient with respect to the head's logits is :math:`p^{head}_j - 1[j = \text{the label or
    its cluster}]`, and with respect to a tail's logits :math:`p^{c}_j - 1[j = y - \text{first of }
    c]` if the label is in it and 0 otherwise.

    Shapes are fixed under jit, so that every tail is computed for every example: what is saved is
    the width of the rare classes' vectors, D (n + C) + sum_c D_c (D + K_c) products instead of D K.

    References:
      Grave et al., `Efficient softmax approximation for GPUs <https://arxiv.org/abs/1609.04309>`_,
      2017, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> features, head = jnp.ones((2, 4)), jnp.zeros((3, 4))
      >>> tails = [(jnp.zeros((1, 4)), jnp.zeros((5, 1)))]
      >>> print(xent.adaptive_softmax(features, jnp.array([0, 6]), head, tails))
      [1.0986 2.7081]
    """
    sizes, head, tails = _two_levels(head, tails)
    classes = sum(sizes)
    examples = _examples(features, labels, where, classes, head.shape[1])
    logits, y = _head_logits(examples.logits, head, head_bias), examples.labels
    log_p, first, entry = jnp.zeros(y.shape, logits.dtype), sizes[0], y
    for cluster, (tail, size) in enumerate(zip(tails, sizes[1:], strict=True)):
        inside = (y >= first) & (y < first + size)
        within = label_log_probability(
            _tail_logits(examples.logits, tail), masked(y - first, inside)
        )
        log_p, first = log_p + masked(within, inside), first + size
        entry = jnp.where(inside, sizes[0] + cluster, entry)
    return examples.finish(-log_p - label_log_probability(logits, entry))


def adaptive_softmax_log_probabilities(
    features: Float[Array, "..."],
    head: Float[Array, "..."],
    tails: Sequence[tuple[Float[Array, "..."], Float[Array, "..."]]],
    *,
    head_bias: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the log-probabilities of all classes under the adaptive softmax, to predict with.

    .. math::
      \log p_k = \log p^{head}_k \quad \text{or} \quad
      \log p^{head}_{n + c} + \log p^{c}_{k - \text{first of } c}

    Args:
      features: f, floating point, of shape (B, D).
      head: H, of shape (n + C, D); see `adaptive_softmax`.
      tails: for each cluster (P, V), of shapes (D_c, D) and (K_c, D_c).
      head_bias: added to the head's logits, of shape (n + C,); none by default.

    Returns:
      Log-probabilities of shape (B, K), in float32 (float64 for float64 features).

    Raises:
      TypeError: features or weights that are not floating point.
      ValueError: shapes that do not fit.

    References:
      Grave et al., `Efficient softmax approximation for GPUs <https://arxiv.org/abs/1609.04309>`_,
      2017, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> tails = [(jnp.zeros((1, 4)), jnp.zeros((2, 1)))]
      >>> print(xent.adaptive_softmax_log_probabilities(jnp.ones((1, 4)), jnp.zeros((3, 4)), tails))
      [[-1.0986 -1.0986 -1.7918 -1.7918]]
    """
    sizes, head, tails = _two_levels(head, tails)
    features = floating("features", features)
    if features.ndim != 2 or features.shape[1] != head.shape[1]:
        raise ValueError(f"features must have shape (B, {head.shape[1]}), got {features.shape}")
    of_head = _log_softmax(_head_logits(features, head, head_bias))
    parts = [of_head[:, : sizes[0]]]
    for cluster, tail in enumerate(tails, start=sizes[0]):
        parts.append(of_head[:, cluster, None] + _log_softmax(_tail_logits(features, tail)))
    return jnp.concatenate(parts, axis=-1)


def _two_levels(
    head: Array, tails: Sequence[tuple[Array, Array]]
) -> tuple[list[int], Array, list[tuple[Array, Array]]]:
    """Returns the number of classes in the head and in each cluster, and the checked weights."""
    head = floating("head", head)
    tails = [(floating("tails", narrow), floating("tails", wide)) for narrow, wide in tails]
    if head.ndim != 2 or len(head) <= len(tails):
        raise ValueError(
            f"head must have shape (n + {len(tails)}, D): n >= 1 classes, then one row for each of "
            f"{len(tails)} clusters; got {head.shape}"
        )
    for narrow, wide in tails:
        if narrow.shape != (wide.shape[-1], head.shape[1]) or wide.ndim != 2:
            raise ValueError(
                f"a tail must have shapes (D_c, {head.shape[1]}) and (K_c, D_c), got "
                f"{narrow.shape} and {wide.shape}"
            )
    return [len(head) - len(tails), *(len(wide) for _, wide in tails)], head, tails


def _head_logits(features: Array, head: Array, bias: Array | None) -> Array:
    head = head.astype(features.dtype)
    logits = features @ head.T
    return logits if bias is None else logits + _per_class("head_bias", bias, head)[None]


def _tail_logits(features: Array, tail: tuple[Array, Array]) -> Array:
    narrow, wide = tail
    return features @ narrow.astype(features.dtype).T @ wide.astype(features.dtype).T


def _log_softmax(logits: Array) -> Array:
    return logits - log_normalizer(logits)[..., None]
