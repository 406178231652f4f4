"""A language model whose logits never exist: its last layer and cross-entropy are one function.

    python -m experiments.train --config=configs/language_model.py        # bytes
    python -m experiments.train --config=configs/language_model.py:bpe    # or another of these

The text is the language reference that comes inside CPython, so that nothing is downloaded: 0.37 MB
of English and code, of which whole topics, about a tenth, are held out. Every version of Python
has its own text; a record tells its digest. Of the held-out text every token is predicted once,
and its nats are told as perplexity per token and as bits per byte, by which different tokens
compare. All variants learn to predict with an embedding that is the last layer as well.

  bytes  256 tokens, a transformer of 2 layers and 128 units (427 thousand parameters) on windows of
         256 bytes, 14 epochs of 81 steps of at most 16 windows (of Python 3.12's text, 87).
  bpe    4,096 tokens of byte pairs, the same transformer (0.9 million parameters) on windows of 128
         tokens, 8 epochs of 39 steps (of Python 3.12's text, 42). The larger the vocabulary, the
         more its logits would take.
  lstm   `bytes` by an LSTM of one layer of 256 units.
  large  For an accelerator: a transformer of 12 layers and 1,024 units in bfloat16, with float32
         parameters (185 million), on the files of --data_dir=FOLDER in 32,768 tokens, 256 windows
         of 1,024 at a step in 16 parts, 10 epochs. It was compiled, never trained: as compiled for
         one CPU device a step needs 63 GB of temporary memory, and 245 GB in 4 parts.

Try with any of them, each with a --workdir of its own, as a folder holds one config's run:

  --config.baseline.name=softmax_cross_entropy_with_integer_labels --workdir=runs/both
         also trains with logits, and draws both curves: they are one, to rounding.
  --config.accumulate=4 --workdir=runs/parts
         adds the gradients of 4 parts of a batch: the same step.
  --config.vocabulary_devices=2 --workdir=runs/split
         splits the embedding, and what would be logits, over groups of 2 of all devices. A CPU is
         one device, unless JAX_NUM_CPU_DEVICES=2 is set in the environment.
  --config.model.dtype=bfloat16 --workdir=runs/bfloat16
         computes in bfloat16; parameters stay float32.
  --config.dataset.name=folder --data_dir=FOLDER --workdir=runs/own
         trains on a text of your own.

Measured on CPython 3.11's text, seed 0, on two CPU cores that other programs were using as well:

  variant  after    perplexity  bits per byte  processor time
  bytes    epoch 1        9.11          3.188
           epoch 5        4.05          2.016
           epoch 10       3.34          1.739
           epoch 14       3.23          1.691         4.8 min
  bpe      epoch 8      125.1           1.777         1.0 min
  lstm     not measured

  bpe in 3 epochs without logits: 222.552, 1.9888 bits per byte; with them: 222.553, 1.9888.

The processor time is the whole command's on both cores. The number of epochs was chosen by these
very numbers, which flatters them a little: there is no third text. As compiled for a step, `bpe`
needs 92 MB of temporary memory without logits and 181 MB with them, `bytes` 231 and 235 MB: with
256 tokens there is nothing to save.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from xent_jax.errors import UserError, nearest
from xent_jax.training import Config, default_config


def get_config(variant: str = "bytes") -> Config:
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/language_model.py has no variant {variant!r}{nearest(variant, _VARIANTS)}; "
            f"one of: {', '.join(_VARIANTS)}"
        )
    return _VARIANTS[variant]()


def _bytes() -> Config:
    config = default_config()
    config.dataset.name, config.dataset.window = "python_language_reference", 256
    config.model = ConfigDict({"name": "transformer", "width": 128, "layers": 2, "heads": 4})
    config.loss = ConfigDict({"name": "linear_softmax_cross_entropy"})
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 3e-3, "b2": 0.95})
    config.schedule = ConfigDict({"name": "cosine", "warmup_epochs": 1, "final_fraction": 0.1})
    config.weight_decay, config.clip_norm = 0.1, 1.0
    config.batch_size, config.eval_batch_size = 16, 16
    config.epochs, config.steps_per_call = 14, 9
    return config


def _bpe() -> Config:
    config = _bytes()
    config.tokens = ConfigDict({"name": "bpe", "size": 4096})
    config.dataset.window = 128
    config.epochs = 8
    return config


def _lstm() -> Config:
    config = _bytes()
    config.model = ConfigDict({"name": "lstm", "width": 256, "layers": 1})
    return config


def _large() -> Config:
    config = _bytes()
    config.dataset.name, config.dataset.window = "folder", 1024
    config.tokens = ConfigDict({"name": "bpe", "size": 32768})
    shape = {"width": 1024, "layers": 12, "heads": 16, "dtype": "bfloat16"}
    config.model = ConfigDict({"name": "transformer", **shape})
    config.loss = ConfigDict({"name": "linear_softmax_cross_entropy", "z_loss": 1e-4})
    config.optimizer.learning_rate = 3e-4
    config.batch_size, config.eval_batch_size, config.accumulate = 256, 64, 16
    config.epochs, config.steps_per_call = 10, 50
    return config


_VARIANTS: dict[str, Callable[[], Config]] = {
    "bytes": _bytes,
    "bpe": _bpe,
    "lstm": _lstm,
    "large": _large,
}
VARIANTS = tuple(_VARIANTS)
