"""Losses of label sequences whose alignment with the frames is unknown: all of them are summed.

Shapes are Optax's: one row per sequence, padded at the end, with paddings that are 1 where a frame
or a label is padding and 0 where it counts.
"""

import functools

import jax
import jax.numpy as jnp

from xent_jax.losses.contract import floating, masked
from xent_jax.losses.lattices import alignment_total, band_total
from xent_jax.losses.softmax import label_log_probability, log_normalizer
from xent_jax.typing import Array, Float, Int, Shaped


def ctc_loss(
    logits: Float[Array, "..."],
    logit_paddings: Shaped[Array, "..."],
    labels: Int[Array, "..."],
    label_paddings: Shaped[Array, "..."],
    *,
    blank_id: int = 0,
    zero_infinity: bool = False,
) -> Float[Array, "..."]:
    r"""Computes connectionist temporal classification: labels in order, their times unknown.

    For speech and handwriting recognition, where every frame emits a label or a blank, and the
    labels are what remains after repetitions are merged and blanks are dropped.

    .. math::
      L = -\log \sum_{\pi \in \mathcal{B}^{-1}(y)} \prod_t p_{t, \pi_t}, \qquad
      p_t = \mathrm{softmax}(z_t)

    Args:
      logits: z, floating point, of shape (B, T, K), one of the K classes being the blank.
      logit_paddings: 0 for the frames that count and 1 for those that do not, of shape (B, T). The
        latter are left out whatever they hold, wherever they are.
      labels: y, integers in [0, K) other than the blank, of shape (B, N).
      label_paddings: 0 for the labels that count and 1 for the others, of shape (B, N), in each row
        first zeros, then ones.
      blank_id: the class that stands for no label.
      zero_infinity: whether a sequence of too few frames for its labels has loss 0 instead of +inf.

    Returns:
      One value per sequence in nats, of shape (B,), in float32 (float64 for float64 logits), at
      least 0: +inf where no alignment is possible, NaN where a label that counts is outside [0, K)
      or is the blank, or where a label follows a padded one.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a blank outside [0, K).

    The gradient is :math:`p_{tk} - \gamma_{tk}` with :math:`\gamma_{tk}` the probability that frame
    t emits k given that the labels are y: what the model says less what it should have said. It is
    0 in padded frames, and everywhere where no alignment is possible.

    Numerics: sums run in log space and a probability of 0 is a log of -inf, not a large number.
    Optax takes `log_epsilon` for it, there is none here: Optax says about 1e5 where this is +inf,
    or may say a little less than 0. Besides the logits and their gradient, a few arrays of shape
    (T, 2 N + 2) are held per sequence, and none of frames times labels times classes.

    References:
      Graves et al., `Connectionist Temporal Classification: Labelling Unsegmented Sequence Data
      with Recurrent Neural Networks <https://dl.acm.org/doi/10.1145/1143844.1143891>`_, 2006,
      section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, no_padding = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3))
      >>> labels = jnp.array([[1, 2], [1, 1]])
      >>> print(xent.ctc_loss(logits, no_padding, labels, jnp.zeros((2, 2))))
      [2.5494 4.1589]
    """
    logits, frames = _frames(logits, logit_paddings, "B, T, K", 3, blank_id)
    labels, counted, valid = _labels(labels, label_paddings, logits, blank_id)
    align = jax.vmap(functools.partial(_ctc_log_likelihood, blank=blank_id))
    loss = -align(logits, frames, labels, jnp.sum(counted, axis=-1))
    return _finish(loss, valid, zero_infinity)


def _ctc_log_likelihood(
    logits: Array, frames: Array, labels: Array, count: Array, blank: int
) -> Array:
    """Returns log P(labels) for logits (T, K)."""
    # Less the largest first, so that large logits lose no digits.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    total = log_normalizer(logits - largest)[:, None]
    emitted = jnp.take(logits, labels, axis=-1, mode="clip") - largest - total
    blanks = (logits[:, blank, None] - largest - total)[:, 0]
    # A blank between two labels may be skipped, unless it keeps equal labels apart.
    return alignment_total(blanks, emitted, labels != jnp.roll(labels, 1), frames, count)


def rnn_transducer(
    logits: Float[Array, "..."],
    logit_paddings: Shaped[Array, "..."],
    labels: Int[Array, "..."],
    label_paddings: Shaped[Array, "..."],
    *,
    blank_id: int = 0,
) -> Float[Array, "..."]:
    r"""Computes the transducer loss: as CTC, but what is emitted depends on the labels so far.

    For streaming speech recognition. At frame t, after u labels, the model emits the next label and
    stays at the frame, or a blank and goes to the next one; the last step is a blank.

    .. math::
      L = -\log \sum_{\text{paths from } (0, 0) \text{ to } (T, U)} \; \prod_{(t, u)}
      p_{t, u, k(t, u)}, \qquad p_{t,u} = \mathrm{softmax}(z_{t,u}), \quad
      k(t, u) \in \{y_{u+1}, \mathrm{blank}\}

    Args:
      logits: z, floating point, of shape (B, T, U + 1, K), one of the K classes being the blank.
      logit_paddings: 0 for the frames that count and 1 for the others, of shape (B, T), in each row
        first zeros, then ones. The latter are left out whatever they hold.
      labels: y, integers in [0, K) other than the blank, of shape (B, U).
      label_paddings: 0 for the labels that count and 1 for the others, of shape (B, U), in each row
        first zeros, then ones. Logits for more labels than count are left out whatever they hold.
      blank_id: the class that stands for going to the next frame.

    Returns:
      One value per sequence in nats, of shape (B,), in float32 (float64 for float64 logits), at
      least 0: +inf where no alignment is possible, which takes labels and no frame, or logits of
      -inf; NaN where a label that counts is outside [0, K) or is the blank, or where a frame or a
      label follows a padded one.

    Raises:
      TypeError: logits that are not floating point, or labels that are not integers.
      ValueError: shapes that do not fit, or a blank outside [0, K).

    The gradient is :math:`\gamma_{tu} p_{tuk} - \gamma_{tuk}` with :math:`\gamma_{tu}` the
    probability that an alignment passes (t, u), given the labels, and :math:`\gamma_{tuk}` that it
    emits k there. It is 0 in the padding, and everywhere where no alignment is possible.

    Numerics: sums run in log space over the T + U diagonals of the lattice, each of them at once.
    Besides the logits and their gradient, some arrays of shape (T + U, 2, U + 1) are held per
    sequence.

    References:
      Graves, `Sequence Transduction with Recurrent Neural Networks
      <https://arxiv.org/abs/1211.3711>`_, 2012, section 2.4.

    Example:
      >>> import jax.numpy as jnp
      >>> import xent_jax as xent
      >>> logits, labels = jnp.zeros((1, 2, 3, 4)), jnp.array([[1, 2]])
      >>> print(xent.rnn_transducer(logits, jnp.zeros((1, 2)), labels, jnp.zeros((1, 2))))
      [4.4466]
    """
    logits, frames = _frames(logits, logit_paddings, "B, T, U + 1, K", 4, blank_id)
    labels, counted, valid = _labels(labels, label_paddings, logits, blank_id)
    if logits.shape[2] != labels.shape[1] + 1:
        raise ValueError(
            f"logits (B, T, U + 1, K) need one entry more than labels (B, U), got "
            f"{logits.shape[2]} for {labels.shape[1]} labels: one for each number of labels so far"
        )
    begun = jnp.pad(counted, ((0, 0), (1, 0)), constant_values=True)
    logits = masked(logits, frames[:, :, None] & begun[:, None, :])
    align = jax.vmap(functools.partial(_transducer_log_likelihood, blank=blank_id))
    loss = -align(logits, jnp.sum(frames, axis=-1), labels, jnp.sum(counted, axis=-1))
    return _finish(loss, valid & _is_prefix(frames), zero_infinity=False)


def _transducer_log_likelihood(
    logits: Array, frames: Array, labels: Array, count: Array, blank: int
) -> Array:
    """Returns log P(labels) for logits (T, U + 1, K): a state per label, a step per diagonal."""
    length, states = logits.shape[0], jnp.arange(len(labels) + 1)
    blanks, emitted = jnp.full(logits.shape[:2], blank), jnp.pad(labels, (0, 1))
    emitted = jnp.broadcast_to(emitted[None], logits.shape[:2])
    # In step d a path that has emitted u labels stands at frame d - u.
    at = jnp.arange(length + len(labels))[:, None] - states[None]
    inside = (at >= 0) & (at < frames)
    # After the last frame a complete path waits for the longer ones of the batch.
    waits = jnp.where((at >= frames) & (states == count)[None], 0.0, -jnp.inf)
    to_next_frame = jnp.where(inside, _along(label_log_probability(logits, blanks), at), waits)
    emits = jnp.where(
        inside & (states < count)[None],
        _along(label_log_probability(logits, emitted), at),
        -jnp.inf,
    )
    arriving = jnp.pad(emits, ((0, 0), (1, 0)), constant_values=-jnp.inf)[:, :-1]
    return band_total(jnp.stack([to_next_frame, arriving], axis=1), states == count)


def _along(log_p: Array, at: Array) -> Array:
    """Returns log_p[at[d, u], u], and anything where that frame does not exist."""
    if len(log_p) == 0:
        return jnp.zeros(at.shape, log_p.dtype)
    inside = jnp.clip(at, 0, len(log_p) - 1)
    return jnp.take_along_axis(log_p, inside, axis=0, mode="promise_in_bounds")


def _frames(
    logits: Array, paddings: Array, shape: str, rank: int, blank_id: int
) -> tuple[Array, Array]:
    """Returns checked logits, 0 where padded, and which frames count."""
    logits = floating("logits", logits)
    if logits.ndim != rank:
        raise ValueError(f"logits must have shape ({shape}), got {logits.shape}")
    if not 0 <= blank_id < logits.shape[-1]:
        raise ValueError(f"blank_id must be one of {logits.shape[-1]} classes, got {blank_id}")
    frames = _unpadded("logit_paddings", paddings, logits.shape[:2])
    return masked(logits, frames), frames


def _labels(
    labels: Array, paddings: Array, logits: Array, blank_id: int
) -> tuple[Array, Array, Array]:
    """Returns checked labels, 0 where padded or invalid; which count; which rows are valid."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integer classes, got {labels.dtype}")
    if labels.ndim != 2 or len(labels) != len(logits):
        raise ValueError(
            f"labels must hold one row for each of {len(logits)} sequences, got {labels.shape}"
        )
    counted = _unpadded("label_paddings", paddings, labels.shape)
    valid = (labels >= 0) & (labels < logits.shape[-1]) & (labels != blank_id)
    rows = jnp.all(valid | ~counted, axis=-1) & _is_prefix(counted)
    return masked(labels, valid & counted).astype(jnp.int32), counted, rows


def _unpadded(name: str, paddings: Array, shape: tuple[int, ...]) -> Array:
    paddings = jnp.asarray(paddings)
    if paddings.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {paddings.shape}")
    return ~paddings.astype(bool)


def _is_prefix(counted: Array) -> Array:
    """Whether nothing in a row follows its padding."""
    return jnp.all(counted[:, :-1] | ~counted[:, 1:], axis=-1)


def _finish(loss: Array, valid: Array, zero_infinity: bool) -> Array:
    # The probability of all alignments may round to more than 1: the loss is 0 then, and its
    # gradient as it was.
    loss = loss - jax.lax.stop_gradient(jnp.where(loss < 0.0, loss, 0.0))
    if zero_infinity:
        loss = jnp.where(jnp.isposinf(loss), 0.0, loss)
    # A product, and not a `where`, so that the gradient becomes NaN too.
    return loss * jnp.where(valid, 1.0, jnp.nan).astype(loss.dtype)
