"""The cross-entropy family for JAX: pure, proven loss functions, and the studies built on them."""
