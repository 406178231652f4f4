"""What each loss looks like: its value and its derivative along one line through its inputs.

`pictures()` says of every public function which line that is, and with which hyper-parameters; the
numbers are xent_jax's own, in float64, and the slopes `jax.grad`'s.
"""

from experiments.curves import answers, distributions, embeddings, labels, structures, weights
from experiments.curves.picture import MARGINS, Picture, numbers, sweep

__all__ = ["GREY", "WITHOUT_PICTURE", "Picture", "numbers", "pictures", "sweep"]

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
    rooms = (labels, answers, distributions, embeddings, structures, weights)
    return {name: picture for room in rooms for name, picture in room.pictures().items()}


# What pictures compare with, each computed once.
GREY = {
    "cross-entropy": Picture({"cross-entropy": labels.cross_entropy}, "", **MARGINS),
    "binary cross-entropy": Picture(
        {f"label {label}": answers.sigmoid_cross_entropy(float(label)) for label in (1, 0)},
        "",
        **MARGINS,
    ),
    "softmax": Picture({"softmax": structures.softmax_of_one}, "", **MARGINS),
}
