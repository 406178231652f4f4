"""Perturbations that raise a loss, training against them, and generator against discriminator.

`fgsm`, `pgd` and `virtual_adversarial_perturbation` are pure functions of a loss or of a model, to
be called inside a training step; `jax.grad` passes through them. Training holds the perturbed input
fixed: pass the result through `jax.lax.stop_gradient`, or differentiate in the parameters alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import example_mask, floating, masked, prepare, scalar
from xent_jax.losses.softmax import label_log_probability, probabilities
from xent_jax.losses.transfer import beside, divergence
from xent_jax.typing import Array, Bool, Float, Int, Key, Scalar

Bounds = tuple[float | int, float | int] | None


def fgsm(
    loss: Callable[[Array], Array],
    inputs: Float[Array, "..."],
    *,
    epsilon: Scalar = 8 / 255,
    bounds: Bounds = None,
) -> Float[Array, "..."]:
    r"""Returns inputs moved by one step of the gradient's sign: the quickest adversarial examples.

    .. math::
      x' = x + \varepsilon\, \mathrm{sign}\, \nabla_x L(x)

    Args:
      loss: of the inputs alone, to one value per example (or a scalar): for instance
        `lambda x: xent.softmax_cross_entropy_with_integer_labels(model(x), labels)`. Its sum is
        differentiated, so that each example gets a perturbation of its own.
      inputs: x, floating point, of any shape.
      epsilon: at least 0, in the units of the inputs: 8/255 for CIFAR-10 in the community (Madry et
        al., 2018), 0.25 for MNIST in the paper.
      bounds: the range of valid inputs, to which the result is clipped: (0, 1) for images in that
        range. None for inputs that were standardised.

    Returns:
      The adversarial inputs, of the shape of `inputs`, in float32 (float64 for float64 inputs), at
      most epsilon away from them in every coordinate.

    Raises:
      TypeError: inputs that are not floating point.
      ValueError: epsilon below 0, or bounds in the wrong order.

    The gradient with respect to the inputs is that of x: the sign is constant where it is defined.

    References:
      Goodfellow, Shlens and Szegedy, `Explaining and Harnessing Adversarial Examples
      <https://arxiv.org/abs/1412.6572>`_, 2015, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.fgsm(lambda x: jnp.sum(x**2, axis=-1), jnp.array([[1.0, -2.0]]), epsilon=0.5))
      [[ 1.5 -2.5]]
    """
    x = floating("inputs", inputs)
    epsilon = scalar("epsilon", epsilon, like=x, at_least=0.0)
    return _between(x + epsilon * jnp.sign(_ascent(loss, x)), bounds)


def pgd(
    loss: Callable[[Array], Array],
    inputs: Float[Array, "..."],
    key: Key[Array, ""] | None = None,
    *,
    epsilon: Scalar = 8 / 255,
    step_size: Scalar = 2 / 255,
    steps: int = 7,
    bounds: Bounds = None,
) -> Float[Array, "..."]:
    r"""Returns inputs moved by several projected steps of the gradient's sign.

    .. math::
      x_{i+1} = \Pi_{\|x' - x\|_\infty \le \varepsilon}
      \left( x_i + \eta\, \mathrm{sign}\, \nabla_x L(x_i) \right)

    Args:
      loss: of the inputs alone, to one value per example (or a scalar), as for `fgsm`. The
        divergence from the clean prediction gives the perturbation of TRADES.
      inputs: x, floating point, of any shape.
      key: of `jax.random`, for a start drawn evenly from the box around x; None starts at x.
      epsilon: at least 0, in the units of the inputs; 8/255 for CIFAR-10 and 0.3 for MNIST in the
        paper.
      step_size: eta, at least 0: 2/255 for CIFAR-10 and 0.01 for MNIST.
      steps: 7 for training on CIFAR-10, 40 for MNIST; a static number.
      bounds: the range of valid inputs, to which every step is clipped: (0, 1) for images in that
        range. None for inputs that were standardised.

    Returns:
      The adversarial inputs, of the shape of `inputs`, in float32 (float64 for float64 inputs), at
      most epsilon away from them in every coordinate.

    Raises:
      TypeError: inputs that are not floating point.
      ValueError: a number below 0, or bounds in the wrong order.

    The gradient with respect to the inputs is 1 for coordinates inside the box and at its faces.

    References:
      Madry et al., `Towards Deep Learning Models Resistant to Adversarial Attacks
      <https://arxiv.org/abs/1706.06083>`_, 2018, section 2.1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> x = jnp.array([[1.0, -0.25]])
      >>> print(xent.pgd(lambda x: -jnp.sum(x**2, axis=-1), x, epsilon=0.5, step_size=0.125))
      [[0.5 0. ]]
    """
    x = floating("inputs", inputs)
    epsilon = scalar("epsilon", epsilon, like=x, at_least=0.0)
    step_size = scalar("step_size", step_size, like=x, at_least=0.0)
    _natural("steps", steps, 0)

    def step(moved: Array, _: None) -> tuple[Array, None]:
        moved = moved + step_size * jnp.sign(_ascent(loss, moved))
        return _between(x + _clip(moved - x, -epsilon, epsilon), bounds), None

    start = x
    if key is not None:
        # Drawn in float32 whatever the inputs are, so that a key means the same start.
        noise = jax.random.uniform(key, x.shape, jnp.float32, minval=-1.0, maxval=1.0)
        start = _between(x + epsilon * noise.astype(x.dtype), bounds)
    return jax.lax.scan(step, start, None, length=steps)[0]


def virtual_adversarial_perturbation(
    model: Callable[[Array], Array],
    inputs: Float[Array, "batch ..."],
    key: Key[Array, ""],
    *,
    epsilon: Scalar = 8.0,
    steps: int = 1,
) -> Float[Array, "batch ..."]:
    r"""Returns the small step that changes the model's prediction most; it needs no labels.

    .. math::
      r = \varepsilon \frac{d}{\|d\|_2}, \qquad d \leftarrow \frac{H d}{\|H d\|_2}, \qquad
      H = \nabla^2_r\, D\big( p(x) \,\|\, p(x + r) \big) \Big|_{r = 0}

    The power iteration turns a random d towards the first eigenvector of H, one for each example.
    The loss of virtual adversarial training is then `consistency(model(x + r), model(x))`, with r
    and the second argument passed through `jax.lax.stop_gradient`.

    Args:
      model: from inputs (B, ...) to logits (B, K), the examples independent of one another.
      inputs: x, floating point, of shape (B, ...).
      key: of `jax.random`, for the first d.
      epsilon: the Euclidean length of r, at least 0, in the units of the inputs: 8 in the authors'
        code for CIFAR-10 with augmentation; to be tuned, as the paper does.
      steps: of the power iteration, 1 in the paper; a static number.

    Returns:
      r, of the shape of `inputs`, in float32 (float64 for float64 inputs).

    Raises:
      TypeError: inputs that are not floating point.
      ValueError: epsilon below 0, or no steps.

    Numerics: the paper approximates H d by the gradient at a distance of 1e-6, which in float32 is
    mostly rounding. At r = 0 it is :math:`J^\top (\mathrm{diag}(p) - p p^\top) J d` for the
    Jacobian J of the logits, which one forward and one reverse derivative give exactly. The
    gradient of r passes through both.

    References:
      Miyato et al., `Virtual Adversarial Training: A Regularization Method for Supervised and
      Semi-Supervised Learning <https://arxiv.org/abs/1704.03976>`_, 2018, section 3.3.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> model = lambda x: x @ jnp.array([[1.0, -1.0], [0.0, 0.0]])
      >>> x, key = jnp.zeros((1, 2)), jax.random.key(0)
      >>> print(jnp.abs(xent.virtual_adversarial_perturbation(model, x, key, epsilon=0.5)))
      [[0.5 0. ]]
    """
    x = floating("inputs", inputs)
    epsilon = scalar("epsilon", epsilon, like=x, at_least=0.0)
    _natural("steps", steps, 1)
    logits, forward = jax.linearize(model, x)
    backward = jax.linear_transpose(forward, x)
    p = probabilities(logits)

    def step(direction: Array, _: None) -> tuple[Array, None]:
        change = forward(direction)
        mean = jnp.sum(p * change, axis=-1, keepdims=True)
        return _unit(backward(p * (change - mean))[0]), None

    # Drawn in float32 whatever the inputs are, so that a key means the same direction.
    noise = jax.random.normal(key, x.shape, jnp.float32).astype(x.dtype)
    return epsilon * jax.lax.scan(step, _unit(noise), None, length=steps)[0]


def trades(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."],
    adversarial_logits: Float[Array, "..."],
    *,
    beta: Scalar = 6.0,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the loss that trades accuracy on clean inputs for robustness around them.

    .. math::
      L = -\log p_y + \beta\, D(p \,\|\, p'), \qquad p = \mathrm{softmax}(z), \quad
      p' = \mathrm{softmax}(z')

    The adversarial input is the one near by that maximises the divergence, found by `pgd`::

      clean = jax.lax.stop_gradient(model(x))
      attacked = xent.pgd(lambda x: xent.consistency(model(x), clean), x, key)
      loss = xent.trades(model(x), labels, model(jax.lax.stop_gradient(attacked)))

    Args:
      logits: z, of the clean inputs, floating point, of shape (..., K) for the default axis.
      labels: y, integers in [0, K), of the logits' shape without the class axis.
      adversarial_logits: z', of the adversarial inputs, of the logits' shape.
      beta: at least 0: 6, and 1 for more accuracy, on CIFAR-10 in the paper, where it is written
        1/lambda.
      where: True for the examples that count, of the labels' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of classes.

    Returns:
      One value per example in nats, at least 0, of the labels' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or beta below 0.

    The gradient is :math:`p_j - 1[j = y] + \beta p_j (\log (p_j / p'_j) - D)` with respect to z,
    and :math:`\beta (p'_j - p_j)` with respect to z'.

    References:
      Zhang et al., `Theoretically Principled Trade-off between Robustness and Accuracy
      <https://arxiv.org/abs/1901.08573>`_, 2019, equation 5.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> clean, attacked = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]])
      >>> print(xent.trades(clean, jnp.array([0]), attacked))
      [2.0938]
    """
    examples = prepare(logits, labels, where=where, axis=axis)
    z, y = examples.logits, examples.labels
    beta = scalar("beta", beta, like=z, at_least=0.0)
    attacked = beside(examples, "adversarial_logits", adversarial_logits, axis)
    moved = divergence(z, attacked, jnp.ones_like(beta), jnp.ones_like(beta))
    return examples.finish(beta * moved - label_log_probability(z, y))


def gan_discriminator(
    real_logits: Float[Array, "..."],
    fake_logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the discriminator's cross-entropy of telling real examples from generated ones.

    .. math::
      L = -\log D(x) - \log (1 - D(G(\epsilon))), \qquad D = \mathrm{sigmoid}(\text{logit})

    For the generator, see `gan_non_saturating_generator` and `gan_minimax_generator`.

    Args:
      real_logits: of real examples, floating point, of any shape; high means real.
      fake_logits: of generated examples, of the same shape.
      where: True for the pairs that count, of the same shape; the others give loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per pair in nats, at least 0, of the logits' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ.

    The gradient is :math:`D(x) - 1` and :math:`D(G(\epsilon))`. At the best discriminator the
    expected loss is :math:`2 \log 2 - 2\, \mathrm{JS}` of real and generated examples.

    References:
      Goodfellow et al., `Generative Adversarial Networks <https://arxiv.org/abs/1406.2661>`_, 2014,
      equation 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.gan_discriminator(jnp.array([0.0, 2.0]), jnp.array([0.0, -2.0])))
      [1.3863 0.2539]
    """
    real, fake, where = _pairs(real_logits, fake_logits, where)
    return masked(jax.nn.softplus(-real) + jax.nn.softplus(fake), where)


def gan_minimax_generator(
    fake_logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the generator's side of the minimax game, for theory rather than for training.

    .. math::
      L = \log (1 - D(G(\epsilon))), \qquad D = \mathrm{sigmoid}(\text{logit})

    Args:
      fake_logits: the discriminator's, of generated examples, floating point, of any shape.
      where: True for the examples that count, of the same shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per example in nats, at most 0, of the logits' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a mask of another shape.

    The gradient is :math:`-D(G(\epsilon))`: it vanishes where the discriminator is sure that the
    example is generated, which is where the generator has most to learn.

    References:
      Goodfellow et al., `Generative Adversarial Networks <https://arxiv.org/abs/1406.2661>`_, 2014,
      equation 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.gan_minimax_generator(jnp.array([0.0, -2.0])))
      [-0.6931 -0.1269]
    """
    fake, where = _elements("fake_logits", fake_logits, where)
    return masked(-jax.nn.softplus(fake), where)


def gan_non_saturating_generator(
    fake_logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the generator's cross-entropy of being taken for real: the usual GAN loss.

    .. math::
      L = -\log D(G(\epsilon)), \qquad D = \mathrm{sigmoid}(\text{logit})

    Args:
      fake_logits: the discriminator's, of generated examples, floating point, of any shape.
      where: True for the examples that count, of the same shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per example in nats, at least 0, of the logits' shape, in float32 (float64 for
      float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a mask of another shape.

    The gradient is :math:`D(G(\epsilon)) - 1`: strongest where the discriminator is sure that the
    example is generated.

    References:
      Goodfellow et al., `Generative Adversarial Networks <https://arxiv.org/abs/1406.2661>`_, 2014,
      section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.gan_non_saturating_generator(jnp.array([0.0, -2.0])))
      [0.6931 2.1269]
    """
    fake, where = _elements("fake_logits", fake_logits, where)
    return masked(jax.nn.softplus(-fake), where)


def gan_hinge_discriminator(
    real_logits: Float[Array, "..."],
    fake_logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes by how much the discriminator misses a margin of 1 on either side.

    .. math::
      L = \max(0, 1 - D(x)) + \max(0, 1 + D(G(\epsilon)))

    Args:
      real_logits: D of real examples, floating point, of any shape; high means real.
      fake_logits: D of generated examples, of the same shape.
      where: True for the pairs that count, of the same shape; the others give loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per pair, at least 0, of the logits' shape, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: shapes that differ.

    The gradient is -1 and 1 inside the margins, and 0 beyond them.

    References:
      Lim and Ye, `Geometric GAN <https://arxiv.org/abs/1705.02894>`_, 2017; Miyato et al.,
      `Spectral Normalization for Generative Adversarial Networks
      <https://arxiv.org/abs/1802.05957>`_, 2018, equation 16.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.gan_hinge_discriminator(jnp.array([0.5, 2.0]), jnp.array([0.0, -2.0])))
      [1.5 0. ]
    """
    real, fake, where = _pairs(real_logits, fake_logits, where)
    missed = [jnp.where(margin > 0.0, margin, 0.0) for margin in (1.0 - real, 1.0 + fake)]
    return masked(missed[0] + missed[1], where)


def gan_hinge_generator(
    fake_logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the generator's loss against a hinge discriminator: minus its output.

    .. math::
      L = -D(G(\epsilon))

    Args:
      fake_logits: D of generated examples, floating point, of any shape.
      where: True for the examples that count, of the same shape; the others give loss 0 and
        gradient 0 whatever they hold.

    Returns:
      One value per example, of the logits' shape, in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a mask of another shape.

    The gradient is -1 everywhere.

    References:
      Lim and Ye, `Geometric GAN <https://arxiv.org/abs/1705.02894>`_, 2017; Miyato et al.,
      `Spectral Normalization for Generative Adversarial Networks
      <https://arxiv.org/abs/1802.05957>`_, 2018, equation 17.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.gan_hinge_generator(jnp.array([0.5, -2.0])))
      [-0.5  2. ]
    """
    fake, where = _elements("fake_logits", fake_logits, where)
    return masked(-fake, where)


def _pairs(real: Array, fake: Array, where: Array | None) -> tuple[Array, Array, Array | None]:
    if jnp.shape(real) != jnp.shape(fake):
        raise ValueError(
            f"real_logits {jnp.shape(real)} and fake_logits {jnp.shape(fake)} must have one shape: "
            "generate as many examples as there are real ones"
        )
    real, where = _elements("real_logits", real, where)
    return real, masked(floating("fake_logits", fake).astype(real.dtype), where), where


def _elements(name: str, logits: Array, where: Array | None) -> tuple[Array, Array | None]:
    logits = floating(name, logits)
    where = example_mask(where, logits[..., None], "it masks elements")
    return masked(logits, where), where


def _ascent(loss: Callable[[Array], Array], inputs: Array) -> Array:
    return jax.grad(lambda x: jnp.sum(loss(x)))(inputs)


def _between(inputs: Array, bounds: Bounds) -> Array:
    if bounds is None:
        return inputs
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds}")
    return _clip(inputs, jnp.asarray(low, inputs.dtype), jnp.asarray(high, inputs.dtype))


def _clip(x: Array, low: Array, high: Array) -> Array:
    """Returns the array inside [low, high], by selects: `jnp.clip` halves gradients at a face."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _unit(x: Array) -> Array:
    """Returns each example at length 1, or as it is where its length is 0."""
    # Scaled first, so that no square overflows or underflows.
    axes = tuple(range(1, x.ndim))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0))
    scaled = x / jnp.where(largest == 0.0, 1.0, largest)
    squares = jnp.sum(scaled**2, axis=axes, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(squares == 0.0, 1.0, squares))


def _natural(name: str, number: int, least: int) -> None:
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
