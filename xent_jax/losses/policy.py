"""Cross-entropies weighted by a return, a preference or a rank: learning what to do.

Nothing here stops a gradient: advantages that come from a critic trained along with the policy are
passed through `jax.lax.stop_gradient` by the caller, and so are the probabilities of an old policy.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import Examples, example_mask, floating, masked, prepare, scalar
from xent_jax.losses.logarithms import times
from xent_jax.losses.softmax import label_log_probability, prediction_entropy
from xent_jax.losses.transfer import unlabelled
from xent_jax.typing import Array, Bool, Float, Int, Key, Scalar


def policy_gradient(
    logits: Float[Array, "..."],
    actions: Int[Array, "..."],
    advantages: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the REINFORCE loss: the cross-entropy with the action taken, by how good it was.

    .. math::
      L = -A \log \pi_a, \qquad \pi = \mathrm{softmax}(z)

    Its value says little, but its gradient, averaged over actions drawn from the policy, is that of
    the expected return with the sign changed.

    Args:
      logits: z, the policy's, floating point, of shape (..., K) for the default axis.
      actions: a, integers in [0, K), of the logits' shape without the class axis, drawn from the
        policy itself.
      advantages: A, of the actions' shape: the return less a baseline that does not depend on the
        action. Negative ones make the action rarer.
      where: True for the steps that count, of the actions' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of actions.

    Returns:
      One value per step, of either sign, of the actions' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or actions that are not integers.
      ValueError: shapes that do not fit.

    The gradient is :math:`A (\pi_j - 1[j = a])`.

    References:
      Williams, `Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
      Learning <https://doi.org/10.1007/BF00992696>`_, 1992, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, actions = jnp.zeros((2, 2)), jnp.array([0, 1])
      >>> print(xent.policy_gradient(logits, actions, jnp.array([1.0, -2.0])))
      [ 0.6931 -1.3863]
    """
    steps = prepare(logits, actions, where=where, axis=axis)
    advantages = _per_step("advantages", advantages, steps)
    return steps.finish(times(advantages, -label_log_probability(steps.logits, steps.labels)))


def ppo_clip(
    logits: Float[Array, "..."],
    actions: Int[Array, "..."],
    advantages: Float[Array, "..."],
    old_log_probabilities: Float[Array, "..."],
    *,
    epsilon: Scalar = 0.2,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes the clipped surrogate of proximal policy optimisation, to reuse a batch of actions.

    .. math::
      L = -\min\big( \rho A,\; \mathrm{clip}(\rho, 1 - \varepsilon, 1 + \varepsilon)\, A \big),
      \qquad \rho = \frac{\pi_a}{\pi^{\text{old}}_a}, \quad \pi = \mathrm{softmax}(z)

    A pessimistic bound: a change of the policy beyond the range earns nothing, while one that made
    things worse is felt in full.

    Args:
      logits: z, the policy's, floating point, of shape (..., K) for the default axis.
      actions: a, integers in [0, K), of the logits' shape without the class axis, drawn from the
        old policy.
      advantages: A, of the actions' shape.
      old_log_probabilities: log of the old policy's probability of each action, of their shape.
      epsilon: in [0, 1]; 0.2 in the paper.
      where: True for the steps that count, of the actions' shape; the others give loss 0 and
        gradient 0 whatever they hold.
      axis: the logits' axis of actions.

    Returns:
      One value per step, of either sign, of the actions' shape, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating point, or actions that are not integers.
      ValueError: shapes that do not fit, or epsilon outside [0, 1].

    The gradient is :math:`\rho A (\pi_j - 1[j = a])`, and 0 where the ratio has left the range in
    the direction that A asks for.

    References:
      Schulman et al., `Proximal Policy Optimization Algorithms
      <https://arxiv.org/abs/1707.06347>`_, 2017, equation 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, actions = jnp.zeros((2, 2)), jnp.array([0, 0])
      >>> old = jnp.log(jnp.array([0.25, 0.25]))
      >>> print(xent.ppo_clip(logits, actions, jnp.array([1.0, -1.0]), old))
      [-1.2  2. ]
    """
    steps = prepare(logits, actions, where=where, axis=axis)
    epsilon = scalar("epsilon", epsilon, like=steps.logits, at_least=0.0, at_most=1.0)
    advantages = _per_step("advantages", advantages, steps)
    old = _per_step("old_log_probabilities", old_log_probabilities, steps)
    ratio = jnp.exp(label_log_probability(steps.logits, steps.labels) - old)
    # Selects: the gradient of `jnp.minimum` and `jnp.clip` is lost or halved at equality.
    gains = advantages > 0.0
    limit = jnp.where(gains, 1.0 + epsilon, 1.0 - epsilon)
    inside = jnp.where(gains, ratio < limit, ratio > limit)
    # An action outside the choices keeps its slope, for `finish` to make it NaN.
    bounded = jnp.where(inside | ~jnp.asarray(steps.valid), ratio, limit)
    return steps.finish(-bounded * advantages)


def entropy_bonus(
    logits: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Computes minus the policy's entropy, to be added to a loss so that the policy explores.

    .. math::
      L = \sum_k \pi_k \log \pi_k, \qquad \pi = \mathrm{softmax}(z)

    Added with a weight such as 0.01, the paper's. `entropy_minimisation` is its negative.

    Args:
      logits: z, the policy's, floating point, of shape (..., K) for the default axis.
      where: True for the steps that count, of the logits' shape without the class axis; the others
        give loss 0 and gradient 0 whatever they hold.
      axis: the logits' axis of actions.

    Returns:
      One value per step in nats, between -log K and 0, of the logits' shape without the class axis,
      in float32 (float64 for float64 logits).

    Raises:
      TypeError: logits that are not floating point.
      ValueError: a mask whose shape does not fit.

    The gradient is :math:`\pi_j (\log \pi_j - L)`: towards even probabilities.

    References:
      Mnih et al., `Asynchronous Methods for Deep Reinforcement Learning
      <https://arxiv.org/abs/1602.01783>`_, 2016, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> print(xent.entropy_bonus(jnp.array([[0.0, 0.0], [9.0, 0.0]])))
      [-0.6931 -0.0012]
    """
    z, where = unlabelled(logits, where, axis)
    return masked(-prediction_entropy(z), where)


def direct_preference(
    chosen_log_probabilities: Float[Array, "..."],
    rejected_log_probabilities: Float[Array, "..."],
    reference_chosen_log_probabilities: Float[Array, "..."],
    reference_rejected_log_probabilities: Float[Array, "..."],
    *,
    beta: Scalar = 0.1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Computes the cross-entropy of preferring the better of two answers, without a reward model.

    .. math::
      L = -\log \sigma \left( \beta \log \frac{\pi(y_w)}{\pi_0(y_w)}
      - \beta \log \frac{\pi(y_l)}{\pi_0(y_l)} \right)

    The Bradley-Terry model whose reward is the policy's log-ratio to a fixed reference.

    Args:
      chosen_log_probabilities: log pi(y_w), the policy's, of each whole answer that was preferred
        (summed over its tokens), floating point, of any shape.
      rejected_log_probabilities: log pi(y_l), of the other answers, of the same shape.
      reference_chosen_log_probabilities: log pi_0(y_w), the reference policy's.
      reference_rejected_log_probabilities: log pi_0(y_l).
      beta: at least 0: the smaller, the further the policy may go from the reference; 0.1 in the
        paper.
      where: True for the pairs that count, of the same shape; the others give loss 0 and gradient 0
        whatever they hold.

    Returns:
      One value per pair in nats, at least 0, in float32 (float64 for float64 log-probabilities);
      log 2 for a policy that equals the reference.

    Raises:
      TypeError: log-probabilities that are not floating point.
      ValueError: shapes that differ, or beta below 0.

    The gradient is :math:`-\beta \sigma(-u)` with respect to the chosen and :math:`\beta
    \sigma(-u)` with respect to the rejected log-probability, for the margin u inside the sigmoid:
    strongest where the policy prefers the wrong answer.

    References:
      Rafailov et al., `Direct Preference Optimization: Your Language Model is Secretly a Reward
      Model <https://arxiv.org/abs/2305.18290>`_, 2023, equation 7.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> same, better = jnp.array([-20.0]), jnp.array([-10.0])
      >>> print(xent.direct_preference(better, same, same, same))
      [0.3133]
    """
    named = {
        "chosen_log_probabilities": chosen_log_probabilities,
        "rejected_log_probabilities": rejected_log_probabilities,
        "reference_chosen_log_probabilities": reference_chosen_log_probabilities,
        "reference_rejected_log_probabilities": reference_rejected_log_probabilities,
    }
    if len({jnp.shape(array) for array in named.values()}) > 1:
        told = ", ".join(f"{name} {jnp.shape(array)}" for name, array in named.items())
        raise ValueError(f"log-probabilities must have one shape, one number per pair, got {told}")
    arrays = [floating(name, array) for name, array in named.items()]
    where = example_mask(where, arrays[0][..., None], "it masks pairs")
    chosen, rejected, reference_chosen, reference_rejected = (
        masked(array.astype(arrays[0].dtype), where) for array in arrays
    )
    beta = scalar("beta", beta, like=chosen, at_least=0.0)
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return masked(jax.nn.softplus(-beta * margin), where)


class Search(NamedTuple):
    """The normal distribution that a search has come to, one mean and scale per coordinate."""

    mean: Array
    scale: Array  # its standard deviation


def cross_entropy_method(
    objective: Callable[[Array], Array],
    mean: Float[Array, "..."],
    scale: Float[Array, "..."],
    key: Key[Array, ""],
    *,
    samples: int = 100,
    elites: int = 10,
    steps: int = 50,
    smoothing: Scalar = 0.7,
) -> Search:
    r"""Returns where the cross-entropy method finds an objective small, without its gradient.

    .. math::
      x_1 \dots x_N \sim \mathcal N(\mu, \sigma^2), \qquad
      (\mu, \sigma) \leftarrow \alpha\, (\hat\mu, \hat\sigma) + (1 - \alpha) (\mu, \sigma)

    with the mean and standard deviation of the best few samples, the elites. They are the
    distribution of the least cross-entropy with the elites, which the method is named for.

    Args:
      objective: from one point, of the mean's shape, to a scalar; it is vmapped. It need be neither
        differentiable nor continuous. NaN counts as worst.
      mean: mu, where to start, floating point, of any shape.
      scale: sigma, of the same shape: wide enough to reach the minimum.
      key: of `jax.random`.
      samples: N, drawn in each step.
      elites: how many of them are fitted; a tenth is usual.
      steps: how often. All three are static numbers.
      smoothing: alpha in [0, 1], how far to follow the elites: below 1, so that the search does not
        narrow too early. 0.7 is usual.

    Returns:
      `Search`: mean and scale after the last step, in float32 (float64 for a float64 mean).

    Raises:
      TypeError: a mean or scale that is not floating point.
      ValueError: shapes that differ, more elites than samples, numbers below 1, or smoothing
        outside [0, 1].

    References:
      De Boer, Kroese, Mannor and Rubinstein, `A Tutorial on the Cross-Entropy Method
      <https://doi.org/10.1007/s10479-005-5724-z>`_, 2005, section 2.2; Rubinstein, The
      Cross-Entropy Method for Combinatorial and Continuous Optimization, 1999.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> target = jnp.array([1.0, -2.0])
      >>> distance = lambda x: jnp.sum(jnp.abs(x - target))
      >>> found = xent.cross_entropy_method(distance, jnp.zeros(2), jnp.ones(2), jax.random.key(0))
      >>> print(found.mean)
      [ 1. -2.]
    """
    mean, scale = floating("mean", mean), floating("scale", scale)
    if mean.shape != scale.shape:
        raise ValueError(f"scale must have the mean's shape {mean.shape}, got {scale.shape}")
    if not 1 <= elites <= samples or steps < 1:
        raise ValueError(
            f"needs 1 <= elites <= samples and steps >= 1, got elites={elites}, "
            f"samples={samples}, steps={steps}"
        )
    smoothing = scalar("smoothing", smoothing, like=mean, at_least=0.0, at_most=1.0)

    def step(search: Search, key: Array) -> tuple[Search, None]:
        # Drawn in float32 whatever the mean is, so that a key means the same search.
        noise = jax.random.normal(key, (samples, *mean.shape), jnp.float32).astype(mean.dtype)
        points = search.mean[None] + search.scale[None] * noise
        values = jax.vmap(objective)(points)
        best = points[jnp.argsort(values, stable=True)[:elites]]  # NaN comes last
        fitted = Search(jnp.mean(best, axis=0), _deviation(best))
        return jax.tree.map(lambda new, old: old + smoothing * (new - old), fitted, search), None

    start = Search(mean, scale.astype(mean.dtype))
    return jax.lax.scan(step, start, jax.random.split(key, steps))[0]


def _deviation(points: Array) -> Array:
    """Returns the standard deviation over the first axis; its slope is 0 where it is 0."""
    variance = jnp.mean((points - jnp.mean(points, axis=0, keepdims=True)) ** 2, axis=0)
    some = variance > 0.0
    return jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)


def _per_step(name: str, array: Array, steps: Examples) -> Array:
    """Returns one number per step, checked and masked as the steps are."""
    array = floating(name, array).astype(steps.logits.dtype)
    if array.shape != steps.labels.shape:
        raise ValueError(
            f"{name} must hold one number per action, shape {steps.labels.shape}, got {array.shape}"
        )
    return masked(array, steps.where)
