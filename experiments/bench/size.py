"""How large that is what a bench measures; what is not given is the bench's own choice."""

from absl import flags

EXAMPLES = flags.DEFINE_integer(
    "examples",
    None,
    "Images in an epoch (train: 12,800), or examples of a loss (losses, rules: 4,096).",
    lower_bound=1,
)
CLASSES = flags.DEFINE_integer("classes", 1000, "Classes of a loss.", lower_bound=4)
ONLY = flags.DEFINE_string("only", "", "Measure the losses whose names match this expression.")
RUNS = flags.DEFINE_multi_integer(
    "runs", [1, 8, 32], "Runs of a stack (sweep, convolution); may be repeated.", lower_bound=1
)
