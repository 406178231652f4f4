"""What a network gives a loss in training, and how it classifies in evaluation."""

from typing import Any

import jax
import jax.numpy as jnp

from xent_jax import losses
from xent_jax.typing import Array, Bool, Float, Key, Scalar


def feed(
    model: Any,
    images: Float[Array, "batch height width channels"],
    mask: Bool[Array, " batch"],
    keys: Key[Array, " batch"] | None,
    *,
    frozen: bool = False,
) -> dict[str, Array]:
    """Returns the network's share of `objective.FEEDS`; its running statistics move on.

    Where the features are frozen they are those of evaluation, and the last layer alone learns.

    The cosines are there where its last layer computes them, as evaluation then classifies by
    them, too.
    """
    if frozen:
        features = jax.lax.stop_gradient(model.features(images))
    else:
        features = model.features(images, True, mask, keys)
    logits = model.logits(features).astype(jnp.float32)
    given = {
        "logits": logits,
        "features": features.astype(jnp.float32),
        "classifier_weights": model.logits.kernel[...].T,
    }
    scale = getattr(model.logits, "scale", None)
    return given if scale is None else given | {"cosines": logits / scale}


def classify(
    model: Any,
    images: Float[Array, "batch height width channels"],
    *,
    class_prior: Float[Array, " classes"],
    logit_adjustment: Scalar,
    tau_normalisation: Scalar,
) -> Float[Array, "batch classes"]:
    """Returns the logits, after the long tail's two corrections where they are asked for.

    Args:
      model: of `xent_jax.models`.
      images: standardised.
      class_prior: pi, the shares of the classes in training.
      logit_adjustment: tau of Menon et al. 2021: z - tau log pi. 0: none.
      tau_normalisation: tau of Kang et al. 2020: class weights are divided by their norm to this
        power, and the bias is dropped. 0: neither.
    """
    features = model.features(images)
    if tau_normalisation:
        weights = losses.tau_normalise(model.logits.kernel[...].T, tau=tau_normalisation)
        logits = features.astype(jnp.float32) @ weights.T
    else:
        logits = model.logits(features).astype(jnp.float32)
    if logit_adjustment:
        logits = losses.logit_adjustment_posthoc(
            logits, class_prior=class_prior, tau=logit_adjustment
        )
    return logits
