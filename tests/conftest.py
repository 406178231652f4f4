"""Several CPU devices, strict promotion and runtime-checked shapes for every test."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu,cuda" if os.path.exists("/dev/nvidia0") else "cpu")

import hypothesis
import jax
import pytest

try:
    from jaxtyping import install_import_hook

    install_import_hook("xent_jax", "beartype.beartype")
except ImportError:
    pass

hypothesis.settings.register_profile("ci", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=1000, deadline=None)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
hypothesis.settings.load_profile(PROFILE)
# Thousands of programs are compiled, each of which runs for milliseconds: most of LLVM's passes
# are left to the nightly tests, and to `training/test_resume.py`, which runs what users run.
jax.config.update("jax_disable_most_optimizations", PROFILE == "ci")


@pytest.fixture(autouse=True)
def strict_promotion():
    """Implicit casts and broadcasts are bugs in this library, so tests forbid them."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
