"""The public functions, and the choice among implementations."""

import importlib
from collections.abc import Collection
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from xent_jax.linear_xent.arguments import (
    Problem,
    flat,
    known,
    operands,
    prepare,
    same_tokens_and_classes,
    scalar,
    settings_of_pair,
    side_of,
    token_mask,
    token_weights,
)
from xent_jax.linear_xent.reference import Strengths, logsumexp, masked, token_losses
from xent_jax.linear_xent.sharded import over
from xent_jax.linear_xent.varying import vary_alike
from xent_jax.typing import Array, Bool, Float, Int, Scalar

# The modules of this folder, each imported when it is chosen: `import xent_jax` loads no Pallas.
IMPLEMENTATIONS = ("chunked", "reference", "pallas_gpu", "pallas_tpu")
DISTILLATIONS = {"chunked": "chunked_distillation", "reference": "distillation"}


def linear_softmax_cross_entropy(
    hidden: Float[Array, "..."],
    weights: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    bias: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
    label_smoothing: Scalar = 0.0,
    z_loss: Scalar = 0.0,
    logit_softcap: Scalar | None = None,
    temperature: Scalar = 1.0,
    class_prior: Float[Array, "..."] | None = None,
    vocabulary_axis: str | tuple[str, ...] | None = None,
    return_logsumexp: bool = False,
    return_argmax: bool = False,
    implementation: str | None = None,
    precision: Any = None,
) -> Float[Array, "..."] | tuple[Array, ...]:
    r"""Computes the cross-entropy of a linear layer's outputs, which never exist all at once.

    For the last layer of a language model: the loss of each token, to be summed, weighted or
    measured as you like. To train on a sum whose weights are known beforehand,
    `linear_softmax_cross_entropy_sum` takes three matrix products instead of four.

    .. math::
      L = -\sum_k t_k \log p_k + \lambda \left(\log \sum_k e^{z_k}\right)^2, \qquad
      z_k = \frac{c}{T} \tanh \frac{w_k \cdot h + b_k}{c} + \log \pi_k, \quad
      p = \mathrm{softmax}(z)

    with :math:`t_k = (1 - \varepsilon)\, 1[k = y] + \varepsilon / V`. With the defaults
    :math:`z_k = w_k \cdot h` and :math:`L = -\log p_y`.

    Args:
      hidden: h, floating point, of shape (..., D).
      weights: w, floating point, of shape (V, D): an embedding table as it is, the kernel of a
        dense layer (D, V) as `kernel.T`, of which CPUs make one copy under `jax.jit`.
      labels: y, integers in [0, V), of shape (...).
      bias: b, of shape (V,); 0 by default. At -inf a class cannot occur.
      where: True for the tokens that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      label_smoothing: epsilon in [0, 1], spread over the classes that can occur, and only them.
      z_loss: lambda >= 0, which keeps the normaliser near 1; 1e-4 in PaLM.
      logit_softcap: c > 0, which bounds the logits to (-c, c); no bound by default; 30 in Gemma 2.
      temperature: T > 0.
      class_prior: pi, each class's share of the training tokens, of shape (V,). The loss is then
        the balanced softmax, or logit adjustment: the layer learns what the shares do not say. A
        class of share 0 cannot occur.
      vocabulary_axis: inside `jax.shard_map`, the axis of the mesh (or the axes, in a tuple) along
        which the classes are divided. Weights, bias and class_prior are then the device's own rows;
        hidden and labels are the same for all devices of the axis (gathered, if they were divided
        along it), and so are the results; labels count all classes. Logits and weights stay where
        they are. What the devices exchange are each token's largest logit, its class if asked for,
        and two sums, three with smoothing; on the way back the gradient of hidden, added up in its
        dtype. Where the devices do not divide V, append rows of zeros with a bias of -inf: a label
        of theirs costs +inf. There is an example in `linear_softmax_cross_entropy_sum`.
      return_logsumexp: also return :math:`\log \sum_k e^{z_k}`, differentiable.
      return_argmax: also return the class of the largest z, the first of several, to which a
        soft-cap adds those it brings to the same number.
      implementation: "chunked" holds the logits of a few tokens at a time, "reference" all of them,
        with derivatives of every order; "chunked" by default. "pallas_tpu" keeps them in a TPU's
        vector memory, "pallas_gpu" reads them once on a GPU from Hopper on; neither yet ran on one.
      precision: of the matrix products, as in `jax.lax.dot_general`.

    Returns:
      One value per token in nats, of shape (...), in float32 (float64 for float64 arguments): +inf
      where the label's class cannot occur, NaN where the label is outside [0, V). With
      `return_logsumexp` and `return_argmax` a tuple of the loss and these, in this order, each of
      shape (...) and 0 where masked.

    Raises:
      TypeError: arguments of the wrong kind of dtype.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, an implementation
        that does not exist; weights not divided along `vocabulary_axis`, or labels, `where`
        or weights_per_token that are.
      NotImplementedError: a second derivative of an implementation other than the reference.

    The gradient is :math:`\partial L / \partial z_j = p_j - t_j + 2 \lambda p_j \log \sum_k
    e^{z_k}`, taken on to hidden, weights, bias, class_prior and every float hyper-parameter; what
    is not asked for is not computed. Forward-mode derivatives are the reference's alone.

    Numerics: logits, sums and the gradient of the weights are in float32 whatever the arguments
    are. For bfloat16 arguments the logits' gradient is rounded to bfloat16 before its products. For
    float16, in which small probabilities are 0, it is not: the weights are copied to float32. If
    hidden and weights differ in dtype, the products are of one that holds both: cast float32 master
    weights yourself where you want products of bfloat16.

    References:
      Szegedy et al., `Rethinking the Inception Architecture <https://arxiv.org/abs/1512.00567>`_,
      2015, section 7 (smoothing). Chowdhery et al., `PaLM <https://arxiv.org/abs/2204.02311>`_,
      2022, section 5 (z-loss). Gemma Team, `Gemma 2 <https://arxiv.org/abs/2408.00118>`_, 2024,
      section 2 (soft-capping). Menon et al., `Long-Tail Learning via Logit Adjustment
      <https://arxiv.org/abs/2007.07314>`_, 2021 (prior). Wijmans et al., `Cut Your Losses in
      Large-Vocabulary Language Models <https://arxiv.org/abs/2411.09009>`_, 2024 (no logits).

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> hidden, embedding = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.eye(3, 2)
      >>> print(xent.linear_softmax_cross_entropy(hidden, embedding, jnp.array([0, 1])))
      [0.2395 2.2395]
    """
    problem = prepare(
        hidden,
        weights,
        labels,
        bias=bias,
        where=where,
        logit_softcap=logit_softcap,
        temperature=temperature,
        class_prior=class_prior,
        vocabulary_axis=vocabulary_axis,
        uniform=not known(label_smoothing, 0.0),
        argmax=return_argmax,
        precision=precision,
    )
    strengths = _strengths(problem, label_smoothing, z_loss)
    problem, strengths = vary_alike((problem, strengths), but=problem.axes)
    tokens = problem.tokens
    terms = over(problem.axes, _module(_chosen(IMPLEMENTATIONS, implementation))).token_terms(
        problem.settings, problem.layer, problem.hidden, tokens.labels, tokens.where
    )
    results = [token_losses(terms, strengths, tokens)]
    results += [masked(logsumexp(terms), tokens.where)] if return_logsumexp else []
    results += [masked(terms.argmax, tokens.where)] if return_argmax else []
    results = [result.reshape(problem.shape) for result in results]
    return tuple(results) if return_logsumexp or return_argmax else results[0]


def linear_softmax_cross_entropy_sum(
    hidden: Float[Array, "..."],
    weights: Float[Array, "..."],
    labels: Int[Array, "..."],
    *,
    weights_per_token: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
    label_smoothing: Scalar = 0.0,
    z_loss: Scalar = 0.0,
    logit_softcap: Scalar | None = None,
    temperature: Scalar = 1.0,
    class_prior: Float[Array, "..."] | None = None,
    vocabulary_axis: str | tuple[str, ...] | None = None,
    implementation: str | None = None,
    precision: Any = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Computes the weighted sum of a batch's cross-entropies and what to divide it by.

    For training with a large vocabulary. Both numbers are sums, so that they can be added over
    micro-batches and devices before the one is divided by the other.

    .. math::
      S = \sum_n \omega_n L_n, \qquad N = \sum_n \omega_n \quad \text{over the tokens that count}

    where L is the loss of `linear_softmax_cross_entropy`. Because the weights are known while the
    logits are there, the gradients are computed in the forward pass, if any are asked for.

    Args:
      hidden: h, floating point, of shape (..., D).
      weights: w, floating point, of shape (V, D); the kernel of a dense layer (D, V) as `kernel.T`.
      labels: y, integers in [0, V), of shape (...).
      weights_per_token: omega, floating point, of the labels' shape; 1 by default. A token of
        weight 0 adds nothing, though its loss be infinite; what is NaN or has no label is for
        `where` to leave out.
      bias, where, label_smoothing, z_loss, logit_softcap, temperature, class_prior,
        vocabulary_axis: as in `linear_softmax_cross_entropy`.
      implementation: "chunked", "reference", "pallas_gpu" or "pallas_tpu"; "chunked" by default.
      precision: of the matrix products, as in `jax.lax.dot_general`.

    Returns:
      S and N, in float32 (float64 for float64 arguments): the mean is S / N where N is not 0. S is
      NaN where the label of a token that counts is outside [0, V).

    Raises:
      TypeError: arguments of the wrong kind of dtype.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, an implementation
        that does not exist; weights not divided along `vocabulary_axis`, or labels, `where`
        or weights_per_token that are.
      NotImplementedError: a second derivative of an implementation other than the reference.

    The gradient is the sum of the losses' gradients, each times its weight; with respect to the
    weights of the tokens it is their losses (0 for a weight of 0 and an infinite loss). Until the
    way back it is kept in float32, so that it is rounded once, after the cotangent has scaled it.
    Along a `vocabulary_axis` it is computed on the way back, with a fourth product: in the forward
    pass each chunk would wait for all devices.

    References:
      Hsu et al., `Liger Kernel: Efficient Triton Kernels for LLM Training
      <https://arxiv.org/abs/2410.10989>`_, 2024, section 3.2 (gradients in the forward pass).

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> hidden, embedding = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.eye(3, 2)
      >>> print(xent.linear_softmax_cross_entropy_sum(hidden, embedding, jnp.array([0, 1])))
      (Array(2.4791, dtype=float32), Array(2., dtype=float32))

      On a mesh of devices that divide tokens and classes, here 3 classes and padding:

      >>> import jax
      >>> from jax.sharding import NamedSharding, PartitionSpec as P
      >>> mesh = jax.make_mesh((1, jax.device_count()), ("data", "vocabulary"))
      >>> tokens, rows = P("data"), P("vocabulary")
      >>> @jax.shard_map(mesh=mesh, in_specs=(tokens, rows, rows, tokens), out_specs=P())
      ... def mean_loss(hidden, weights, bias, labels):
      ...     pair = xent.linear_softmax_cross_entropy_sum(
      ...         hidden, weights, labels, bias=bias, vocabulary_axis="vocabulary"
      ...     )
      ...     total, normaliser = jax.lax.psum(pair, "data")
      ...     return total / normaliser
      >>> padded = 3 * jax.device_count()
      >>> bias = jnp.where(jnp.arange(padded) < 3, 0.0, -jnp.inf)
      >>> layer = jax.device_put((jnp.eye(padded, 2), bias), NamedSharding(mesh, rows))
      >>> batch = jax.device_put((hidden, jnp.array([0, 1])), NamedSharding(mesh, tokens))
      >>> value, gradient = jax.jit(jax.value_and_grad(mean_loss, 1))(batch[0], *layer, batch[1])
      >>> print(f"{value:.4f}", gradient.sharding.spec[0])
      1.2395 vocabulary
    """
    problem = prepare(
        hidden,
        weights,
        labels,
        bias=bias,
        where=where,
        logit_softcap=logit_softcap,
        temperature=temperature,
        class_prior=class_prior,
        vocabulary_axis=vocabulary_axis,
        uniform=not known(label_smoothing, 0.0),
        precision=precision,
    )
    omega = token_weights(weights_per_token, problem)
    strengths = _strengths(problem, label_smoothing, z_loss)
    problem, strengths, omega = vary_alike((problem, strengths, omega), but=problem.axes)
    settings, layer, hidden, tokens, _, axes = problem
    weighted_sum = over(axes, _module(_chosen(IMPLEMENTATIONS, implementation))).weighted_sum
    total = weighted_sum(settings, layer, strengths, hidden, omega, tokens)
    counts = jnp.ones(tokens.labels.shape, settings.dtype) if omega is None else omega
    return total, jnp.sum(masked(counts, tokens.where))


def linear_distillation(
    student_hidden: Float[Array, "..."],
    student_weights: Float[Array, "..."],
    teacher_hidden: Float[Array, "..."],
    teacher_weights: Float[Array, "..."],
    *,
    student_bias: Float[Array, "..."] | None = None,
    teacher_bias: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
    student_logit_softcap: Scalar | None = None,
    teacher_logit_softcap: Scalar | None = None,
    temperature: Scalar = 2.0,
    implementation: str | None = None,
    precision: Any = None,
) -> Float[Array, "..."]:
    r"""Computes a distillation loss from the last layers of student and teacher, without logits.

    `distillation` without its labels, for vocabularies so large that neither model's logits should
    exist; a term with labels is `linear_softmax_cross_entropy`, which, other than this, can divide
    the vocabulary over devices.

    .. math::
      L = T^2 D(t \,\|\, s), \qquad t = \mathrm{softmax}(a / T), \quad
      s = \mathrm{softmax}(z / T)

    where :math:`z_k = w_k \cdot h + b_k` are the student's logits, soft-capped if asked for, and
    a, the teacher's, likewise.

    Args:
      student_hidden: h, floating point, of shape (..., D).
      student_weights: w, floating point, of shape (V, D); a dense layer's `kernel.T`.
      teacher_hidden: of shape (..., E), where E need not be D.
      teacher_weights: of shape (V, E).
      student_bias, teacher_bias: of shape (V,); 0 by default. At -inf a class cannot occur.
      where: True for the tokens that count, of shape (...); the others give loss 0 and gradient 0
        whatever they hold.
      student_logit_softcap, teacher_logit_softcap: c > 0: logits are replaced by c tanh(z / c).
      temperature: T > 0: the higher, the more the teacher's small probabilities count.
      implementation: "chunked", the default, or "reference".
      precision: of the matrix products, as in `jax.lax.dot_general`.

    Returns:
      One value per token, at least 0, of shape (...), in float32 (float64 where an argument is):
      nats times T squared, +inf where the teacher expects what the student holds impossible.

    Raises:
      TypeError: arguments of the wrong kind of dtype.
      ValueError: shapes that do not fit, a hyper-parameter outside its range, an implementation
        that does not exist.
      NotImplementedError: a second derivative of an implementation other than the reference.

    The gradient with respect to the student's logits is :math:`T (s_j - t_j)`. It goes to whatever
    is differentiated, the teacher too; what is not asked for is not computed.

    References:
      Hinton, Vinyals and Dean, `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> hidden, weights = jnp.array([[2.0, 0.0]]), jnp.eye(3, 2)
      >>> print(xent.linear_distillation(hidden, weights, 2.0 * hidden, weights))
      [0.3955]
    """
    student = operands("student_hidden", student_hidden, "student_weights", student_weights)
    teacher = operands("teacher_hidden", teacher_hidden, "teacher_weights", teacher_weights)
    same_tokens_and_classes(student, teacher)
    shape = student[0].shape[:-1]
    settings = settings_of_pair(student, teacher, precision)
    sides = [
        side_of(settings[0], *student, student_bias, student_logit_softcap, temperature),
        side_of(settings[1], *teacher, teacher_bias, teacher_logit_softcap, temperature),
    ]
    where = token_mask(where, shape)
    where = None if where is None else flat(where)
    squared = scalar("temperature", temperature, settings[0].dtype, above=0.0) ** 2
    sides, where, squared = vary_alike((sides, where, squared))
    distillation = _module(DISTILLATIONS[_chosen(DISTILLATIONS, implementation)])
    divergences = masked(distillation.token_divergences(settings, *sides, where), where)
    return (squared * divergences).reshape(shape)


def _strengths(problem: Problem, label_smoothing: Scalar, z_loss: Scalar) -> Strengths:
    dtype = problem.settings.dtype
    smoothing = scalar("label_smoothing", label_smoothing, dtype, at_least=0.0, at_most=1.0)
    strength = scalar("z_loss", z_loss, dtype, at_least=0.0)
    return Strengths(
        smoothing if problem.settings.uniform else None,
        None if known(z_loss, 0.0) else strength,
    )


def _chosen(implementations: Collection[str], implementation: str | None) -> str:
    name = "chunked" if implementation is None else implementation
    if name not in implementations:
        raise ValueError(
            f"implementation must be one of {', '.join(implementations)} or None, "
            f"got {implementation!r}"
        )
    return name


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"xent_jax.linear_xent.{name}")
