"""Imports run one way, and `import xent_jax` costs JAX and NumPy alone."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

import xent_jax

ROOT = pathlib.Path(__file__).parents[1]

# Each room, and the rooms it may know. `typing` and `errors` are open to all.
MAY_IMPORT = {
    "losses": {"kernels"},
    "linear_xent": {"kernels"},
    "kernels": set(),
    "metrics": {"losses"},
    "models": set(),
    "data": set(),
    "reporting": set(),
    "training": {"losses", "linear_xent", "metrics", "models", "data", "reporting", "presets"},
}
OPEN = {"typing", "errors"}
ROOMS = sorted(
    path.name for path in (ROOT / "xent_jax").iterdir() if (path / "__init__.py").exists()
)


def imported_modules(path: pathlib.Path):
    """Yields the dotted name of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported_by(room: str) -> set[str]:
    modules = {
        module
        for path in (ROOT / "xent_jax" / room).rglob("*.py")
        for module in imported_modules(path)
    }
    parts = [module.split(".") for module in modules if module.startswith("xent_jax.")]
    return {part[1] for part in parts} - {room}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_the_rooms_below_it(room):
    assert rooms_imported_by(room) - OPEN <= MAY_IMPORT[room]


def test_nothing_in_the_library_knows_the_command_lines():
    for path in (ROOT / "xent_jax").rglob("*.py"):
        tops = {module.split(".")[0] for module in imported_modules(path)}
        assert not tops & {"experiments", "configs", "tests"}, path


def test_the_losses_need_jax_and_numpy_alone():
    for room in ("losses", "metrics"):
        for path in (ROOT / "xent_jax" / room).rglob("*.py"):
            tops = {module.split(".")[0] for module in imported_modules(path)}
            assert tops - set(sys.stdlib_module_names) <= {"jax", "numpy", "xent_jax"}, path


def test_importing_the_library_is_light():
    heavy = {
        "absl", "beartype", "flax", "grain", "jaxtyping", "matplotlib", "ml_collections", "optax",
        "orbax", "sklearn", "tensorboardX", "tensorflow_datasets", "tqdm",
    }  # fmt: skip
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import xent_jax
assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)
assert not [name for name in sys.modules if "pallas" in name]
import jax.numpy as jnp
loss = xent_jax.softmax_cross_entropy_with_integer_labels(jnp.zeros((1, 2)), jnp.zeros(1, int))
assert loss[0].round(4) == jnp.log(2.0).round(4)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert xent_jax.__version__ == project["version"]
