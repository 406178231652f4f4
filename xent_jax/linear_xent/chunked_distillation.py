"""Distillation a few tokens at a time: a scan with a hand-derived way back, as in `chunked`.

With g the cotangent of a token's divergence D, the derivatives with respect to the student's and
the teacher's logits are

    dz_j = g (s_j - t_j),    da_j = g t_j (r_j - D)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from xent_jax.linear_xent.chunked import (
    Asked,
    add_gradients,
    first_derivative_only,
    instantiated,
    logits_and_pullback,
    only,
    rounded,
    scan_chunks,
    split_asked,
    unpadded,
    zeros,
)
from xent_jax.linear_xent.distillation import (
    Side,
    divergence_of,
    log_ratio,
    probabilities,
    side_logits,
)
from xent_jax.linear_xent.reference import Layer, Normalizer, Settings, masked
from xent_jax.typing import Array

Settings2 = tuple[Settings, Settings]  # the student's and the teacher's


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def token_divergences(
    settings: Settings2, student: Side, teacher: Side, where: Array | None
) -> Array:
    """Returns D(t || s) of each token."""
    return _forward(settings, student, teacher, where)[0]


def _token_divergences_forward(settings: Settings2, *arguments: Any) -> tuple[Array, Any]:
    asked, arrays = split_asked(arguments)
    forward = first_derivative_only(functools.partial(_forward, settings))
    divergences, normalizers = forward(*arrays)
    return divergences, (asked, *arrays, divergences, normalizers)


def _token_divergences_backward(
    settings: Settings2, saved: Any, cotangents: Any
) -> tuple[Any, ...]:
    asked, student, teacher, where, divergences, normalizers = saved
    rows = where, divergences, normalizers, instantiated(cotangents)
    return *_backward(settings, asked, student, teacher, rows), None


token_divergences.defvjp(
    _token_divergences_forward, _token_divergences_backward, symbolic_zeros=True
)


def _forward(
    settings: Settings2, student: Side, teacher: Side, where: Array | None
) -> tuple[Array, tuple[Normalizer, Normalizer]]:
    def chunk(_: None, rows: Any) -> tuple[None, Any]:
        *hidden, where = rows
        z = side_logits(settings[0], student._replace(hidden=hidden[0]), where)
        a = side_logits(settings[1], teacher._replace(hidden=hidden[1]), where)
        return None, divergence_of(z, a)

    rows = student.hidden, teacher.hidden, where
    _, (divergences, normalizers) = scan_chunks(settings[0].rows, chunk, None, rows)
    return unpadded(divergences, student.hidden), normalizers


def _backward(
    settings: Settings2,
    asked: Asked,
    student: Side,
    teacher: Side,
    rows: tuple[Array | None, Array, tuple[Normalizer, Normalizer], Array],
) -> tuple[Side, Side]:
    """Returns the gradients with respect to the sides, None where not asked for."""
    sides, asked_sides = (student, teacher), asked.tree[:2]

    def chunk(sums: Any, rows: Any) -> tuple[Any, Any]:
        hidden, where, divergences, normalizers, cotangents = rows
        here = [
            side._replace(hidden=masked(h, where)) for side, h in zip(sides, hidden, strict=True)
        ]
        (z, pull_z), (a, pull_a) = (
            logits_and_pullback(of, *side) for of, side in zip(settings, here, strict=True)
        )
        dz, da = _slopes(z, a, divergences, normalizers, cotangents)
        pulled = pull_z(dz), pull_a(da)
        gradients = list(map(_side_gradients, settings, asked_sides, sums, here, pulled))
        return [layer for layer, _ in gradients], [hidden for _, hidden in gradients]

    layers = [only(flags.layer, side.layer) for flags, side in zip(asked_sides, sides, strict=True)]
    start = zeros(settings[0], layers, like=student.hidden)
    hidden = student.hidden, teacher.hidden
    d_layers, d_hidden = scan_chunks(settings[0].rows, chunk, start, (hidden, *rows))
    d_student, d_teacher = map(
        _rounded_side, settings, d_layers, unpadded(d_hidden, student.hidden)
    )
    return d_student, d_teacher


def _slopes(
    z: Array,
    a: Array,
    divergences: Array,
    normalizers: tuple[Normalizer, Normalizer],
    cotangents: Array,
) -> tuple[Array, Array]:
    """Returns the derivatives with respect to both logits, by the formulas above."""
    of_student, of_teacher = normalizers
    s, t = probabilities(z, of_student), probabilities(a, of_teacher)
    r = log_ratio(z, a, of_student, of_teacher)
    r = jnp.where(jnp.isinf(r), 0.0, r)
    d = jnp.where(jnp.isinf(divergences), 0.0, divergences)
    return cotangents[:, None] * (s - t), cotangents[:, None] * t * (r - d[:, None])


def _side_gradients(
    settings: Settings, asked: Side, sums: Layer, side: Side, pulled: tuple[Array, Any]
) -> tuple[Layer, Any]:
    """Returns the sums of the layer's gradient with the chunk's, and that of its hidden vectors."""
    sums, d_hidden = add_gradients(settings, asked.layer, bool(asked.hidden), sums, *side, pulled)
    return sums, rounded(settings, d_hidden)


def _rounded_side(settings: Settings, d_layer: Layer, d_hidden: Any) -> Side:
    return Side(d_layer._replace(weights=rounded(settings, d_layer.weights)), d_hidden)
