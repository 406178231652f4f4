"""Learning a class from a few examples: heads that classify queries by a support set, and MAML.

An episode is a support set, a few labelled embeddings of each class, and queries to classify by it.
Each head gives logits (`..._logits`, for predictions), and has a loss that is their cross-entropy.
Several episodes at once: `jax.vmap`.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xent_jax.losses.categorical import softmax_cross_entropy_with_integer_labels
from xent_jax.losses.contract import Examples, example_mask, floating, masked, prepare, scalar
from xent_jax.losses.metric import unit_vectors
from xent_jax.losses.softmax import log_normalizer
from xent_jax.typing import Array, Bool, Float, Int, Scalar


def prototypical_logits(
    embeddings: Float[Array, "..."],
    support_embeddings: Float[Array, "_ _"],
    support_labels: Int[Array, "_"],
    *,
    num_classes: int,
    support_where: Bool[Array, "_"] | None = None,
) -> Float[Array, "..."]:
    r"""Computes minus the squared distances to the classes' means: prototypical networks' logits.

    .. math::
      z_k = -\|x - c_k\|^2, \qquad c_k = \frac{1}{|S_k|} \sum_{i \in S_k} s_i

    Args:
      embeddings: x of the queries, floating point, of shape (..., D).
      support_embeddings: s, of shape (S, D).
      support_labels: integers in [0, num_classes), of shape (S,).
      num_classes: K, a Python integer.
      support_where: True for the support examples that count, of shape (S,); the others have no
        influence whatever they hold.

    Returns:
      Logits of shape (..., K), in float32 (float64 for float64 inputs); -inf for a class
      without support, NaN if a support label is outside [0, K).

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    They are those of a linear classifier with weights 2 c_k and biases -|c_k|^2, less |x|^2, which
    no softmax sees.

    Numerics: queries and prototypes are first moved to the support's mean, so that their common
    part does not cancel; then a matrix product does, and no array of queries times classes times
    features is made. Rounding may leave a distance of 0 a little below it.

    References:
      Snell, Swersky and Zemel, `Prototypical Networks for Few-shot Learning
      <https://arxiv.org/abs/1703.05175>`_, 2017, equations 1 and 8.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> support, labels = jnp.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), jnp.array([0, 0, 1])
      >>> query = jnp.array([[1.0, 1.0]])
      >>> print(xent.prototypical_logits(query, support, labels, num_classes=3))
      [[ -1.  -5. -inf]]
    """
    x, support = _prepare(
        embeddings, support_embeddings, support_labels, num_classes, support_where
    )
    counts = jnp.sum(support.members, axis=0)[:, None]
    centre = jax.lax.stop_gradient(jnp.mean(support.embeddings, axis=0, keepdims=True))
    moved = support.embeddings - centre  # distances stay; large numbers no longer cancel
    sums = jnp.einsum("sk,sd->kd", support.members, moved, precision="highest")
    prototypes = sums / jnp.where(counts == 0.0, 1.0, counts)
    return support.finish(-_squared_distances(x - jnp.broadcast_to(centre[0], x.shape), prototypes))


def _squared_distances(x: Array, y: Array) -> Array:
    """Returns |x|^2 - 2 x.y + |y|^2 of x (..., D) and the rows of y."""
    products = jnp.einsum("...d,kd->...k", x, y, precision="highest")
    squares = jnp.broadcast_to(jnp.sum(y**2, axis=-1), products.shape)
    return jnp.sum(x**2, axis=-1)[..., None] - 2.0 * products + squares


def prototypical(
    embeddings: Float[Array, "..."],
    labels: Int[Array, "..."],
    support_embeddings: Float[Array, "_ _"],
    support_labels: Int[Array, "_"],
    *,
    num_classes: int,
    where: Bool[Array, "..."] | None = None,
    support_where: Bool[Array, "_"] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the loss of prototypical networks: cross-entropy over distances to class means.

    The head to start few-shot learning with: nothing to tune, and hard to beat.

    .. math::
      L = -\log \frac{e^{-\|x - c_y\|^2}}{\sum_k e^{-\|x - c_k\|^2}}

    Args:
      embeddings: x of the queries, floating point, of shape (..., D).
      labels: y of the queries, integers in [0, num_classes), of shape (...).
      support_embeddings: of shape (S, D); c_k is the mean of those of class k.
      support_labels: integers in [0, num_classes), of shape (S,).
      num_classes: K, a Python integer.
      where: True for the queries that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      support_where: True for the support examples that count, of shape (S,).

    Returns:
      One value per query in nats, of the labels' shape, in float32 (float64 for float64 inputs);
      +inf where the label's class has no support.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`2 \sum_k (p_k - 1[k = y]) (c_k - x)`: towards the right prototype, and
    away from the others as they are believed.

    References:
      Snell, Swersky and Zemel, `Prototypical Networks for Few-shot Learning
      <https://arxiv.org/abs/1703.05175>`_, 2017, equation 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> support, support_labels = jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 1])
      >>> queries, labels = jnp.array([[0.0, 0.0]]), jnp.array([0])
      >>> print(xent.prototypical(queries, labels, support, support_labels, num_classes=2))
      [0.0486]
    """
    logits = prototypical_logits(
        _counted(embeddings, where),
        support_embeddings,
        support_labels,
        num_classes=num_classes,
        support_where=support_where,
    )
    return softmax_cross_entropy_with_integer_labels(logits, labels, where=where)


def matching_network_logits(
    embeddings: Float[Array, "..."],
    support_embeddings: Float[Array, "_ _"],
    support_labels: Int[Array, "_"],
    *,
    num_classes: int,
    scale: Scalar = 1.0,
    support_where: Bool[Array, "_"] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the log-probabilities of matching networks: attention over the support's labels.

    .. math::
      z_k = \log \sum_{i \in S_k} a_i, \qquad
      a_i = \frac{e^{s \cos(x, s_i)}}{\sum_j e^{s \cos(x, s_j)}}

    Args:
      embeddings: x of the queries, floating point, of shape (..., D).
      support_embeddings: s_i, of shape (S, D).
      support_labels: integers in [0, num_classes), of shape (S,).
      num_classes: K, a Python integer.
      scale: s > 0, by which the cosines are multiplied: 1 in the paper, where attention is nearly
        even; others use 100.
      support_where: True for the support examples that count, of shape (S,); the others have no
        influence whatever they hold.

    Returns:
      Log-probabilities of shape (..., K), which as logits are their own log-softmax, in float32
      (float64 for float64 inputs); -inf for a class without support, NaN if a support label is
      outside [0, K).

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a scale that is not positive.

    References:
      Vinyals et al., `Matching Networks for One Shot Learning <https://arxiv.org/abs/1606.04080>`_,
      2016, equation 1 and section 2.1.1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> support, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> query = jnp.array([[3.0, 0.0]])
      >>> print(jnp.exp(xent.matching_network_logits(query, support, labels, num_classes=2)))
      [[0.7311 0.2689]]
    """
    x, support = _prepare(
        embeddings, support_embeddings, support_labels, num_classes, support_where
    )
    scale = scalar("scale", scale, like=x, above=0.0)
    cosines = jnp.einsum(
        "...d,sd->...s", unit_vectors(x), unit_vectors(support.embeddings), precision="highest"
    )
    of_class = _log_sums_by_class(scale * cosines, support.members)
    return support.finish(of_class - log_normalizer(of_class)[..., None])


def _log_sums_by_class(scores: Array, members: Array) -> Array:
    """Returns log sum exp of scores (..., S) over each class's members, (..., K)."""
    # Sums of rows, since an array of queries, classes and members would be K times the logits.
    labels, classes = jnp.argmax(members, axis=-1), members.shape[-1]
    counted = jnp.broadcast_to(jnp.any(members == 1.0, axis=-1), scores.shape)
    rows = jnp.moveaxis(jnp.where(counted, scores, -jnp.inf), -1, 0)
    largest = jax.lax.stop_gradient(jax.ops.segment_max(rows, labels, classes))
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)  # a class without members
    total = jax.ops.segment_sum(jnp.exp(rows - largest[labels]), labels, classes)
    log_sums = largest + jnp.log(jnp.where(total == 0.0, 1.0, total))
    return jnp.moveaxis(jnp.where(total == 0.0, -jnp.inf, log_sums), 0, -1)


def matching_network(
    embeddings: Float[Array, "..."],
    labels: Int[Array, "..."],
    support_embeddings: Float[Array, "_ _"],
    support_labels: Int[Array, "_"],
    *,
    num_classes: int,
    scale: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
    support_where: Bool[Array, "_"] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the loss of matching networks: the attention that misses the label's examples.

    A nearest-neighbour classifier made smooth; with one example per class, it is a cosine softmax.

    .. math::
      L = -\log \sum_{i \in S_y} a_i, \qquad
      a_i = \frac{e^{s \cos(x, s_i)}}{\sum_j e^{s \cos(x, s_j)}}

    Args:
      embeddings: x of the queries, floating point, of shape (..., D).
      labels: y of the queries, integers in [0, num_classes), of shape (...).
      support_embeddings: s_i, of shape (S, D).
      support_labels: integers in [0, num_classes), of shape (S,).
      num_classes: K, a Python integer.
      scale: s > 0, by which the cosines are multiplied: 1 in the paper.
      where: True for the queries that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      support_where: True for the support examples that count, of shape (S,).

    Returns:
      One value per query in nats, of the labels' shape, in float32 (float64 for float64 inputs);
      +inf where the label's class has no support.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a scale that is not positive.

    The paper's context embeddings (LSTMs over the support set) are models, not part of the loss.

    References:
      Vinyals et al., `Matching Networks for One Shot Learning <https://arxiv.org/abs/1606.04080>`_,
      2016, equation 1 and section 2.1.1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> support, support_labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> queries, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> print(xent.matching_network(queries, labels, support, support_labels, num_classes=2))
      [0.3133]
    """
    logits = matching_network_logits(
        _counted(embeddings, where),
        support_embeddings,
        support_labels,
        num_classes=num_classes,
        scale=scale,
        support_where=support_where,
    )
    return softmax_cross_entropy_with_integer_labels(logits, labels, where=where)


def ridge_regression_logits(
    embeddings: Float[Array, "..."],
    support_embeddings: Float[Array, "_ _"],
    support_labels: Int[Array, "_"],
    *,
    num_classes: int,
    penalty: Scalar = 50.0,
    scale: Scalar = 1.0,
    bias: Scalar = 0.0,
    support_where: Bool[Array, "_"] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the logits of R2-D2: a linear classifier that least squares fits to the support.

    .. math::
      z = \alpha\, x W + \beta, \qquad
      W = \arg\min_V \|S V - Y\|^2 + \lambda \|V\|^2 = S^\top (S S^\top + \lambda I)^{-1} Y

    with Y the one-hot support labels.

    Args:
      embeddings: x of the queries, floating point, of shape (..., D).
      support_embeddings: S, of shape (S, D).
      support_labels: integers in [0, num_classes), of shape (S,).
      num_classes: K, a Python integer.
      penalty: lambda > 0; 50 in the authors' code. Like the next two it may be learned, as in the
        paper: give it as a parameter of the model.
      scale: alpha, as least squares aims at 0 and 1 and not at logits; learned in the paper.
      bias: beta; learned in the paper, though no softmax sees it.
      support_where: True for the support examples that count, of shape (S,); the others have no
        influence whatever they hold.

    Returns:
      Logits of shape (..., K), in float32 (float64 for float64 inputs); -inf for a class without
      support, NaN if a support label is outside [0, K).

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a penalty that is not positive.

    The gradient goes through the solution, to the support embeddings and to the penalty.

    Numerics: by the Woodbury identity the system has as many unknowns as the support has examples,
    or as an embedding has features, whichever are fewer. It is solved by Cholesky factors. The
    authors' code also appends a constant feature, and divides S and Y by the root of the support's
    size; the paper does neither.

    References:
      Bertinetto et al., `Meta-learning with differentiable closed-form solvers
      <https://arxiv.org/abs/1805.08136>`_, 2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> support, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> query, options = jnp.array([[3.0, 0.0]]), dict(num_classes=2, penalty=1.0)
      >>> print(xent.ridge_regression_logits(query, support, labels, **options))
      [[1.5 0. ]]
    """
    x, support = _prepare(
        embeddings, support_embeddings, support_labels, num_classes, support_where
    )
    penalty = scalar("penalty", penalty, like=x, above=0.0)
    scale, bias = scalar("scale", scale, like=x), scalar("bias", bias, like=x)
    weights = _ridge_weights(support.embeddings, support.members, penalty)
    return support.finish(scale * jnp.matmul(x, weights, precision="highest") + bias)


def _ridge_weights(s: Array, targets: Array, penalty: Array) -> Array:
    """Returns the W of least |S W - Y|^2 + penalty |W|^2, of shape (D, K)."""
    examples, features = s.shape
    with jax.default_matmul_precision("highest"):
        if examples <= features:
            return s.T @ _solve(s @ s.T + penalty * jnp.eye(examples, dtype=s.dtype), targets)
        return _solve(s.T @ s + penalty * jnp.eye(features, dtype=s.dtype), s.T @ targets)


def _solve(matrix: Array, right: Array) -> Array:
    return jax.scipy.linalg.solve(matrix, right, assume_a="pos")


def ridge_regression(
    embeddings: Float[Array, "..."],
    labels: Int[Array, "..."],
    support_embeddings: Float[Array, "_ _"],
    support_labels: Int[Array, "_"],
    *,
    num_classes: int,
    penalty: Scalar = 50.0,
    scale: Scalar = 1.0,
    bias: Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
    support_where: Bool[Array, "_"] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the loss of R2-D2: cross-entropy of a ridge regression on the support set.

    The embedding learns to be what a linear classifier fitted to few examples needs.

    .. math::
      L = -\log \mathrm{softmax}(\alpha\, x W + \beta)_y, \qquad
      W = S^\top (S S^\top + \lambda I)^{-1} Y

    Args:
      embeddings: x of the queries, floating point, of shape (..., D).
      labels: y of the queries, integers in [0, num_classes), of shape (...).
      support_embeddings: S, of shape (S, D).
      support_labels: integers in [0, num_classes), of shape (S,), Y when one-hot.
      num_classes: K, a Python integer.
      penalty: lambda > 0; 50 in the authors' code. See `ridge_regression_logits`.
      scale: alpha; learned in the paper.
      bias: beta; learned in the paper.
      where: True for the queries that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      support_where: True for the support examples that count, of shape (S,).

    Returns:
      One value per query in nats, of the labels' shape, in float32 (float64 for float64 inputs);
      +inf where the label's class has no support.

    Raises:
      TypeError: embeddings that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a penalty that is not positive.

    References:
      Bertinetto et al., `Meta-learning with differentiable closed-form solvers
      <https://arxiv.org/abs/1805.08136>`_, 2019, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> support, support_labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> queries, labels = jnp.array([[3.0, 0.0]]), jnp.array([0])
      >>> options = dict(num_classes=2, penalty=1.0)
      >>> print(xent.ridge_regression(queries, labels, support, support_labels, **options))
      [0.2014]
    """
    logits = ridge_regression_logits(
        _counted(embeddings, where),
        support_embeddings,
        support_labels,
        num_classes=num_classes,
        penalty=penalty,
        scale=scale,
        bias=bias,
        support_where=support_where,
    )
    return softmax_cross_entropy_with_integer_labels(logits, labels, where=where)


class _Support(NamedTuple):
    """A support set that a formula can be applied to."""

    embeddings: Array  # (S, D); 0 where the example is masked
    members: Array  # (S, K), 1 for the example's class, all 0 where it is masked
    valid: Array  # (), False if an unmasked label is outside [0, K)

    def finish(self, logits: Array) -> Array:
        """Returns the logits: -inf for classes without support, all NaN if a label is invalid."""
        present = jnp.broadcast_to(jnp.any(self.members == 1.0, axis=0), logits.shape)
        logits = jnp.where(present, logits, -jnp.inf)
        return Examples(logits, self.members, self.valid, None).finish(logits)


def _prepare(
    embeddings: Array,
    support_embeddings: Array,
    support_labels: Array,
    num_classes: int,
    support_where: Array | None,
) -> tuple[Array, _Support]:
    """Returns the queries, and the support set with its labels as memberships."""
    x, s = floating("embeddings", embeddings), floating("support_embeddings", support_embeddings)
    dtype = jnp.promote_types(x.dtype, s.dtype)
    x, s = x.astype(dtype), s.astype(dtype)
    if s.ndim != 2 or x.shape[-1:] != s.shape[1:]:
        raise ValueError(
            "support_embeddings must have shape (support, D) for embeddings of shape (..., D), "
            f"got {s.shape} for {x.shape}; for several episodes use jax.vmap"
        )
    if jnp.shape(support_labels) != s.shape[:1]:
        raise ValueError(
            "support_labels must hold one class for each of the support_embeddings, shape "
            f"{s.shape[:1]}, got {jnp.shape(support_labels)}"
        )
    # The labels are checked against scores of the classes that nobody reads.
    scores = jnp.zeros((len(s), operator.index(num_classes)), dtype)
    examples = prepare(scores, support_labels, where=support_where, axis=-1, name="support")
    classes = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    members = (classes == examples.labels[:, None]).astype(dtype)
    assert examples.valid is not None  # as the labels are integers
    support = _Support(
        masked(s, examples.where), masked(members, examples.where), jnp.all(examples.valid)
    )
    return x, support


def _counted(embeddings: Array, where: Array | None) -> Array:
    """Returns the queries with 0 for those that do not count, whatever they hold."""
    x = floating("embeddings", embeddings)
    return masked(x, example_mask(where, x, "it masks whole queries"))


def maml_adapt(
    params: Any,
    inner_loss: Callable[[Any], Array],
    *,
    steps: int = 5,
    learning_rate: Scalar = 0.01,
    first_order: bool = False,
) -> Any:
    r"""Returns parameters after a few steps of gradient descent, themselves differentiable: MAML.

    To train parameters so that a few steps on a new task do well, minimise the loss on the task's
    queries of what this returns, over many tasks:

        def task_loss(params, task):
            adapted = maml_adapt(params, lambda params: support_loss(params, task))
            return query_loss(adapted, task)

        jax.grad(lambda params: jax.vmap(task_loss, (None, 0))(params, tasks).mean())

    .. math::
      \theta_{t + 1} = \theta_t - \alpha \nabla \mathcal{L}(\theta_t), \qquad t = 0, \dots, T - 1

    Args:
      params: theta_0, a pytree of floating point arrays.
      inner_loss: the loss on the task's support set, a scalar function of such a pytree alone.
      steps: T, a Python integer; 5 for training on miniImageNet in the paper, 1 on Omniglot.
      learning_rate: alpha >= 0; 0.01 on miniImageNet in the paper, 0.4 on Omniglot. It is
        differentiable, so that it can be learned too.
      first_order: True to take the inner gradients as constants, as first-order MAML does: it
        saves the second derivatives, and in the paper loses hardly any accuracy.

    Returns:
      theta_T, a pytree like `params`, with half precision raised to float32: a step would be
      rounded away.

    Raises:
      TypeError: parameters that are not floating point, steps that are no integer, a loss that is
        not scalar.
      ValueError: steps or a learning rate below 0.

    The gradient of a loss of theta_T by theta_0 is :math:`\prod_t (I - \alpha H_t)` times its
    gradient by theta_T, with H the inner loss's Hessians; with `first_order` the product is left
    out. The way back holds the residuals of T steps: for large models pass
    `jax.checkpoint(inner_loss)`.

    References:
      Finn, Abbeel and Levine, `Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks
      <https://arxiv.org/abs/1703.03400>`_, 2017, equation 1 and algorithm 2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import xent_jax as xent
      >>> def adapted(start):
      ...     return xent.maml_adapt(start, lambda x: x**2, steps=2, learning_rate=0.25)
      >>> print(adapted(jnp.array(1.0)), jax.grad(adapted)(1.0))
      0.25 0.25
    """
    if operator.index(steps) < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")

    def step(params: Any, _: None) -> tuple[Any, None]:
        slopes = jax.grad(inner_loss)(params)
        if first_order:
            slopes = jax.lax.stop_gradient(slopes)
        return jax.tree.map(descend, params, slopes), None

    def descend(value: Array, slope: Array) -> Array:
        return value - scalar("learning_rate", learning_rate, like=value, at_least=0.0) * slope

    params = jax.tree.map(lambda value: floating("params", value), params)
    return jax.lax.scan(step, params, None, length=steps)[0]
