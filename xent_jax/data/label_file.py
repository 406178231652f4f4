"""Labels that others have published as a file, read without running what is in it.

NumPy's object files and PyTorch's are pickles, and loading one runs whatever it asks for. Here a
pickle may make arrays, texts, numbers and containers of them, and nothing else.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xent_jax.errors import UserError

SUFFIXES = (".npy", ".npz", ".pt")


def read_labels(path: str) -> dict[str, np.ndarray]:
    """Returns the arrays in a file by name; the only one of a file without names is called ''.

    The file is a NumPy array or archive (`.npy`, `.npz`), a NumPy file of a dict of arrays, or a
    dict of arrays saved by PyTorch (`.pt`), which need not be installed: CIFAR-10N and CIFAR-100N
    (Wei et al. 2022) are published in the last two forms.

    Raises:
      UserError: no such file, or one that cannot be read or holds something else.
    """
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise UserError(f"{path}: a file of labels must end in one of {', '.join(SUFFIXES)}")
    try:
        return _READERS[file.suffix](file)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of labels") from None
    except Exception as error:  # What a damaged pickle or archive raises, no list of kinds holds.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot read labels from it: {reason}") from None


def _read_npy(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        if not read_header(opened)[2].hasobject:
            return {"": np.load(file, allow_pickle=False)}
        return _arrays(_Unpickler(opened).load())


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as archive:
        return _arrays(dict(archive))


def _read_pt(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise ValueError("it was not saved by PyTorch")
        return _arrays(_Unpickler(io.BytesIO(archive.read(pickled[0]))).load())


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
}


def _arrays(found: Any) -> dict[str, np.ndarray]:
    if isinstance(found, np.ndarray) and found.shape == () and found.dtype.hasobject:
        found = found.item()  # What `np.save` makes of a dict.
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not arrays by name")
    return {str(name): np.asarray(array) for name, array in found.items()}


# The function that pickled arrays are made by, which has moved between versions of NumPy.
_reconstruct = np.zeros(0).__reduce__()[0]

_HARMLESS = {
    ("_codecs", "encode"): lambda text, encoding: str(text).encode(str(encoding)),
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no labels need")
        return _HARMLESS[module, name]
