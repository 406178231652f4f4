"""Sums over all paths through a lattice, in log space, with the share of every step in the sum.

The number of paths grows exponentially, their sum does not: one pass forwards gives it, a second
one backwards says how likely each edge is, and that is the derivative. So the rules below are by
hand: the gradient costs one more pass instead of differentiating the first step by step, and it
holds probabilities alone, of edges, or of states where nothing but states has weight. Derivatives
of second order differentiate the rule.

A path that cannot be has log weight -inf. Where no path can be, the sum is -inf and the derivative
is 0. At every step the weights are centred at their largest, and the shares at a step are
normalised to sum to 1, so that a long sequence loses few digits to a total of thousands of nats:
over 2000 frames the gradient in float32 is off by 2e-4, that of the plain recursion by 8e-3.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax.typing import Array


def log_sum(x: Array) -> Array:
    """Returns log sum_i exp(x_i) over the first axis; -inf, with gradient 0, where all are -inf."""
    below, largest = centred(x, axis=0)
    total = jnp.sum(jnp.exp(below), axis=0)
    # Selects instead of a rule: JAX forgets the rules of what a scan calls in forward-over-reverse.
    nothing = total == 0.0
    return jnp.where(nothing, -jnp.inf, largest + jnp.log(jnp.where(nothing, 1.0, total)))


def log_add(*terms: Array) -> Array:
    """Returns the log of the sum of the exponentials, as `log_sum` of the stacked terms."""
    largest = functools.reduce(jnp.maximum, map(jax.lax.stop_gradient, terms))
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)
    total = functools.reduce(jnp.add, [jnp.exp(x - largest) for x in terms])
    nothing = total == 0.0
    return jnp.where(nothing, -jnp.inf, largest + jnp.log(jnp.where(nothing, 1.0, total)))


def shares(x: Array) -> Array:
    """Returns exp(x) divided by its sum over all entries; 0 where all are -inf."""
    weights = jnp.exp(centred(x)[0])
    total = jnp.sum(weights)
    return weights / jnp.where(total == 0.0, 1.0, total)


def centred(x: Array, axis: int | None = None) -> tuple[Array, Array]:
    """Returns x less its largest entry, and that entry, or 0 where all are -inf."""
    largest = jax.lax.stop_gradient(jnp.max(x, axis=axis))
    largest = jnp.where(jnp.isneginf(largest), 0.0, largest)
    return x - (largest if axis is None else jnp.expand_dims(largest, axis)), largest


@jax.custom_jvp
def alignment_total(
    blanks: Array, labels: Array, skips: Array, where: Array, count: Array
) -> Array:
    """Returns log sum over the alignments of labels with steps: each may last, blanks between.

    Args:
      blanks: (T,), the log weight of a blank at each step.
      labels: (T, N), that of each label.
      skips: booleans (N,), whether a label may follow the one before it without a blank.
      where: booleans (T,), the steps that count.
      count: how many of the labels there are.
    """
    return _alignment_forward(blanks, labels, skips, where, count)[0]


@alignment_total.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # d total = sum_t P(blank at t) dblank_t + sum_tn P(label n at t) dlabel_tn
    (blanks, labels, skips, where, count), (blanks_dot, labels_dot, *_) = primals, tangents
    total, before = _alignment_forward(*primals)
    may_skip = _with_none(skips, False)

    def step(after: Array, at: tuple[Array, ...]) -> tuple[Array, Array]:
        at_blank, at_label, counts = at
        blank, label = after[0] + at_blank, after[1] + at_label
        skipped = _shifted(jnp.where(may_skip, label, -jnp.inf), -1)
        back = jnp.stack([log_add(blank, _shifted(label, -1)), log_add(label, blank, skipped)])
        return jnp.where(counts, centred(back)[0], after), after

    end = jnp.where(jnp.arange(len(skips) + 1) == count, 0.0, -jnp.inf).astype(labels.dtype)
    along = blanks, _with_none(labels, -jnp.inf), where
    _, after = jax.lax.scan(step, jnp.stack([end, end]), along, reverse=True)
    likely = jnp.where(where[:, None, None], jax.vmap(shares)(before + after), 0.0)
    of_blanks, of_labels = jnp.sum(likely[:, 0], axis=-1), likely[:, 1, 1:]
    return total, jnp.sum(of_blanks * blanks_dot) + jnp.sum(of_labels * labels_dot)


def _alignment_forward(
    blanks: Array, labels: Array, skips: Array, where: Array, count: Array
) -> tuple[Array, Array]:
    """Returns the total, and the centred log weight (T, 2, N + 1) of each state after each step.

    State (0, n) is a blank after n labels, state (1, n) the n-th label; there is no label 0.
    """
    may_skip = _with_none(skips, False)

    def step(before: Array, at: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        (blank, label), (at_blank, at_label, counts) = before, at
        skipped = jnp.where(may_skip, _shifted(label, 1), -jnp.inf)
        arriving = log_add(label, _shifted(blank, 1), skipped)
        after = jnp.stack([log_add(blank, label) + at_blank, arriving + at_label])
        after, largest = centred(after)
        after = jnp.where(counts, after, before)
        return after, (after, jnp.where(counts, largest, 0.0))

    states = jnp.arange(2 * len(skips) + 2).reshape(2, -1)
    first = jnp.where(states == 0, 0.0, -jnp.inf).astype(labels.dtype)
    along = blanks, _with_none(labels, -jnp.inf), where
    last, (after, largest) = jax.lax.scan(step, first, along)
    ends = jnp.sum(jnp.where(jnp.arange(len(skips) + 1) == count, last, 0.0), axis=-1)
    return log_add(*ends) + jnp.sum(largest), after


def _with_none(of_labels: Array, value: float | bool) -> Array:
    """Returns the array with an entry more, in front of those of the labels."""
    widths = [(0, 0)] * (of_labels.ndim - 1) + [(1, 0)]
    return jnp.pad(of_labels, widths, constant_values=value)


@jax.custom_jvp
def band_total(edges: Array, ends: Array) -> Array:
    """Returns log sum over paths of exp(sum of their edges), where a step moves up a few states.

    Args:
      edges: (T, J, S), the log weight of arriving in state s from s - j at each step.
      ends: booleans (S,), the states a path may end in. All start in state 0.
    """
    return _band_forward(edges, ends)[0]


@band_total.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # d total = sum_tjs P(the path takes edge tjs) dedge_tjs
    (edges, ends), (edges_dot, _) = primals, tangents
    total, before = _band_forward(edges, ends)

    def step(after: Array, edge: Array) -> tuple[Array, Array]:
        onwards = edge + after[None]
        back = jnp.stack([_shifted(weight, -j) for j, weight in enumerate(onwards)])
        return centred(log_sum(back))[0], after

    last = jnp.where(ends, 0.0, -jnp.inf).astype(edges.dtype)
    _, after = jax.lax.scan(step, last, edges, reverse=True)
    arriving = jax.vmap(_arriving, (0, None))(before, edges.shape[1])
    likely = jax.vmap(shares)(arriving + edges + after[:, None])
    return total, jnp.sum(likely * edges_dot)


def _band_forward(edges: Array, ends: Array) -> tuple[Array, Array]:
    """Returns the total, and the centred log weight (T, S) of each state before each step."""

    def step(before: Array, edge: Array) -> tuple[Array, tuple[Array, Array]]:
        after, largest = centred(log_sum(_arriving(before, len(edge)) + edge))
        return after, (before, largest)

    first = jnp.where(jnp.arange(len(ends)) == 0, 0.0, -jnp.inf).astype(edges.dtype)
    last, (before, largest) = jax.lax.scan(step, first, edges)
    return log_sum(jnp.where(ends, last, -jnp.inf)) + jnp.sum(largest), before


def _arriving(states: Array, jumps: int) -> Array:
    """Returns (J, S): what comes to each state from the one j below it."""
    return jnp.stack([_shifted(states, jump) for jump in range(jumps)])


def _shifted(states: Array, jump: int) -> Array:
    """Returns the states moved up by `jump`; -inf comes in from outside."""
    size, nothing = len(states), jnp.full(abs(jump), -jnp.inf, states.dtype)
    if jump >= 0:
        return jnp.concatenate([nothing, states])[:size]
    return jnp.concatenate([states, nothing])[-size:]


@jax.custom_jvp
def chain_total(emissions: Array, transitions: Array, where: Array) -> Array:
    """Returns log sum over state sequences of exp(sum of their emissions and transitions).

    Args:
      emissions: (T, K), the log weight of each state at each position.
      transitions: (K, K), the log weight of state j after state i.
      where: booleans (T,), the positions that count; they come first.
    """
    return _chain_forward(emissions, transitions, where)[0]


@chain_total.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    # d total = sum_tk P(state k at t) demission_tk + sum_ij E[steps from i to j] dtransition_ij
    emissions_dot, transitions_dot, _ = tangents
    total, likely, steps = chain_posterior(*primals)
    return total, jnp.sum(likely * emissions_dot) + jnp.sum(steps * transitions_dot)


def chain_posterior(
    emissions: Array, transitions: Array, where: Array
) -> tuple[Array, Array, Array]:
    """Returns the total, P(state k at t) as (T, K), and E[steps from i to j] as (K, K)."""
    total, before = _chain_forward(emissions, transitions, where)

    def step(carry: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[Any, Array]:
        after, steps = carry
        before, emission, counts, is_first = at
        onwards = _links(transitions, is_first) + (emission + after)[None]
        likely = jnp.where(counts, shares(before[:, None] + onwards), 0.0)
        back = jnp.where(counts, centred(log_sum(onwards.T))[0], after)
        steps = steps + jnp.where(is_first, 0.0, likely)
        return (back, steps), jnp.sum(likely, axis=0)

    last = jnp.zeros(len(transitions), emissions.dtype), jnp.zeros_like(transitions)
    along = before, emissions, where, jnp.arange(len(emissions)) == 0
    (_, steps), likely = jax.lax.scan(step, last, along, reverse=True)
    return total, likely, steps


def _chain_forward(emissions: Array, transitions: Array, where: Array) -> tuple[Array, Array]:
    """Returns the total, and the centred log weight (T, K) of each state before each position."""

    def step(before: Array, at: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        emission, counts, is_first = at
        arriving = log_sum(before[:, None] + _links(transitions, is_first))
        after, largest = centred(arriving + emission)
        after, largest = jnp.where(counts, after, before), jnp.where(counts, largest, 0.0)
        return after, (before, largest)

    # One state stands for the beginning, from where the first position is reached at no weight.
    first = jnp.where(jnp.arange(len(transitions)) == 0, 0.0, -jnp.inf).astype(emissions.dtype)
    along = emissions, where, jnp.arange(len(emissions)) == 0
    last, (before, largest) = jax.lax.scan(step, first, along)
    return log_sum(last) + jnp.sum(largest), before


def _links(transitions: Array, is_first: Array) -> Array:
    return jnp.where(is_first, 0.0, transitions)


def chain_best(emissions: Array, transitions: Array, where: Array) -> Array:
    """Returns the state sequence (T,) of the largest weight, by Viterbi's algorithm."""

    def forwards(before: Array, at: tuple[Array, ...]) -> tuple[Array, Array]:
        emission, counts, is_first = at
        arriving = before[:, None] + _links(transitions, is_first)
        after, _ = centred(jnp.max(arriving, axis=0) + emission)
        origin = jnp.where(counts, jnp.argmax(arriving, axis=0), jnp.arange(len(before)))
        return jnp.where(counts, after, before), origin

    def backwards(state: Array, origin: Array) -> tuple[Array, Array]:
        return origin[state], state

    first = jnp.where(jnp.arange(len(transitions)) == 0, 0.0, -jnp.inf).astype(emissions.dtype)
    along = emissions, where, jnp.arange(len(emissions)) == 0
    last, origins = jax.lax.scan(forwards, first, along)
    return jax.lax.scan(backwards, jnp.argmax(last), origins, reverse=True)[1]
