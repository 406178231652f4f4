"""Kernels, which the losses and `linear_xent` share.

Each module holds the kernels of one operation for one kind of device, in Pallas for accelerators,
and is imported where it is used: `import xent_jax` loads no Pallas.
"""
