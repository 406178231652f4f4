"""What the kernels in Pallas' Mosaic GPU have in common: where they run, and how they are tested.

They need tensor memory access and asynchronous matrix products, thus Hopper or later. On any
machine they lower for such a GPU, and JAX interprets them on the CPU, operation by operation.
"""

import importlib
from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

from xent_jax.typing import Array

HOPPER = 9.0  # the compute capability that these instructions came with
INTERPRET = False  # set by tests: on the CPU, operation by operation


def parameters() -> Any:
    """Returns what a kernel's argument `interpret` is to be."""
    if not INTERPRET:
        return False
    public = jax.__version_info__ >= (0, 11)
    place = (
        "experimental.pallas.mosaic_gpu" if public else "_src.pallas.mosaic_gpu.interpret.params"
    )
    return importlib.import_module(f"jax.{place}").InterpretGPUParams()


def clips_copies() -> bool:
    """Whether a copy may reach over an array's end, as on the device: not interpreted before 0.11.

    What lies outside is read as 0 and not written.
    """
    return not INTERPRET or jax.__version_info__ >= (0, 11)


def laid_out(array: Array, layout: Any) -> Array:
    """Returns the array in such registers."""
    return array if INTERPRET else plgpu.layout_cast(array, layout)


def require_hopper() -> None:
    """Raises where the kernels cannot run.

    Raises:
      ValueError: the default device is no GPU of compute capability 9.0 or later.
    """
    if INTERPRET:
        return
    device = jax.devices()[0]
    capability = float(getattr(device, "compute_capability", 0.0))
    if device.platform != "gpu" or capability < HOPPER:
        raise ValueError(
            "implementation 'pallas_gpu' needs an NVIDIA GPU of compute capability 9.0 (Hopper) or "
            f"later, got {device.device_kind}: pass implementation=None"
        )
