"""Tasks on a real cluster of several nodes, all of them on this machine, some of which are lost.

`make test-cluster` installs Ray and runs all of these; where it is missing, those that need none
are left.
"""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from xent_jax.errors import Interrupted, UserError
from xent_jax.reporting import records
from xent_jax.training import cluster, cluster_sweep, default_study, expand, sweep
from xent_jax.training.cluster import claimed, map_on_cluster
from xent_jax.training.cluster_sweep import train_share
from xent_jax.training.grouping import groups_of
from xent_jax.training.signals import StopRequest

# Ray leaves its log files, and the pipes of the processes that it started, to be collected.
_UNCLOSED = "ignore:Exception ignored in. <_io.FileIO name='.*/ray/session"
pytestmark = pytest.mark.filterwarnings(f"{_UNCLOSED}:pytest.PytestUnraisableExceptionWarning")
needs_ray = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
STEPS = 60
SMALL = {"object_store_memory": 10**8}
# A node that is silent for seconds is given up, not after minutes.
IMPATIENT = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
    "grpc_client_keepalive_time_ms": 2000,
    "grpc_client_keepalive_timeout_ms": 2000,
}


def chain(task: dict[str, Any]) -> str:
    """Appends lines, each a hash of all before it; goes on after those that are there."""
    folder = Path(task["folder"])
    with (folder / "workers").open("a") as file:
        print(os.getpid(), file=file)
    lines = read(folder)
    with StopRequest() as stop, (folder / "lines").open("a") as file:
        while len(lines) < task.get("steps", STEPS):
            time.sleep(0.05)
            lines.append(hashlib.sha256("".join([folder.name, *lines]).encode()).hexdigest())
            print(lines[-1], file=file, flush=True)
            if stop.asked():
                time.sleep(2)  # Longer than Ray's patience, if it asked but once.
                (folder / "saved").touch()
                raise Interrupted("saved")
    return lines[-1]


def undisturbed(name: str, steps: int = STEPS) -> list[str]:
    lines: list[str] = []
    while len(lines) < steps:
        lines.append(hashlib.sha256("".join([name, *lines]).encode()).hexdigest())
    return lines


def read(folder: Path, name: str = "lines") -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def until(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Waits for what a condition finds, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError(condition)


def worker_of(folder: Path, lines: int = 5) -> int:
    """Waits until a task is well under way, and returns its newest process."""
    until(lambda: len(read(folder)) >= lines)
    return int(read(folder, "workers")[-1])


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Nodes:
    """A cluster's nodes, each with one core for tasks; its head has none."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.client = f"ray://127.0.0.1:{free.getsockname()[1]}"
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": IMPATIENT}
        head["ray_client_server_port"] = int(self.client.rpartition(":")[2])
        self._cluster = Cluster(initialize_head=True, head_node_args=SMALL | head)
        self.address = self._cluster.address

    def ready(self, many: int) -> "Nodes":
        while len(self._cluster.worker_nodes) < many:
            self._cluster.add_node(**SMALL, num_cpus=1)
        return self

    def of(self, process: int) -> Any:
        """Returns the node that a worker belongs to."""
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        return next(n for n in self._cluster.worker_nodes if self.raylet(n) == parent)

    def raylet(self, node: Any) -> int:
        return node.all_processes["raylet"][0].process.pid

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def started() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Nodes()
        yield nodes
        nodes.shutdown()


@pytest.fixture
def two(started: Nodes) -> Nodes:
    return started.ready(2)


def meanwhile(trouble: Callable[[], None]) -> threading.Thread:
    """Makes trouble in a thread, as Ray's driver wants the main one."""
    thread = threading.Thread(target=trouble)
    thread.start()
    return thread


def tasks_in(folder: Path, names: str, **more: Any) -> Callable[[int], list[dict[str, Any]]]:
    return lambda many: [{"folder": str(folder / name), **more} for name in names]


def map_chains(folder: Path, names: str, address: str, **more: Any) -> dict[str, str]:
    """Returns what was told of each task; of none twice."""
    told: list[tuple[str, str]] = []

    def on_done(task: dict[str, Any], result: str) -> None:
        told.append((Path(task["folder"]).name, result))

    map_on_cluster(chain, tasks_in(folder, names, **more), address=address, on_done=on_done)
    assert len(dict(told)) == len(told)
    return dict(told)


def check_chains(folder: Path, told: dict[str, str], names: str, steps: int = STEPS) -> None:
    assert told.keys() == {*names}
    for name in names:
        assert read(folder / name) == undisturbed(name, steps)
        assert told[name] == undisturbed(name, steps)[-1]


@needs_ray
def test_a_worker_and_a_node_are_lost_and_nothing_else(two: Nodes, tmp_path: Path, caplog):
    def trouble() -> None:
        os.kill(worker_of(tmp_path / "a"), signal.SIGKILL)
        os.kill(worker_of(tmp_path / "b"), signal.SIGTERM)  # It saves, as its machine is taken.
        two.remove(two.of(worker_of(tmp_path / "c")))

    thread = meanwhile(trouble)
    check_chains(tmp_path, map_chains(tmp_path, "abcd", two.address), "abcd")
    thread.join()
    attempts = {name: len(read(tmp_path / name, "workers")) for name in "abcd"}
    assert attempts["a"] == attempts["b"] == attempts["c"] == 2
    assert (tmp_path / "b" / "saved").exists()
    assert f"{tmp_path}/a lost its worker (The worker died unexpectedly" in caplog.text
    assert f"{tmp_path}/b lost its worker (saved)" in caplog.text
    assert f"{tmp_path}/c lost its worker (Task failed because the node" in caplog.text


@needs_ray
def test_a_worker_that_is_thought_dead_is_waited_for(two: Nodes, tmp_path: Path, caplog):
    folder, nodes = tmp_path / "a", []

    def trouble() -> None:
        worker = worker_of(folder)
        nodes.append(two.of(worker))
        for process in (worker, two.raylet(nodes[0])):
            os.kill(process, signal.SIGSTOP)  # A machine falls silent, as the network loses it.
        held = f"{folder}/lock is held by process {worker} on {socket.gethostname()}; waiting"
        until(lambda: held in "".join(read(folder, "worker.log")))
        assert len(read(folder)) < STEPS
        os.kill(worker, signal.SIGCONT)

    thread = meanwhile(trouble)
    try:
        check_chains(tmp_path, map_chains(tmp_path, "a", two.address), "a")
    finally:
        thread.join()
        two.remove(nodes[0])
    assert "a lost its worker" in caplog.text
    assert len(read(folder, "workers")) == 2


@needs_ray
def test_a_stop_lets_the_workers_save_and_the_same_call_goes_on(two: Nodes, tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def trouble() -> None:
        worker_of(tmp_path / "a")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = meanwhile(trouble)
    with pytest.raises(Interrupted, match="run it again to continue"):
        map_chains(tmp_path, "abc", two.address)
    thread.join()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    begun = [name for name in "abc" if read(tmp_path / name)]
    assert "a" in begun
    assert "c" not in begun
    assert all((tmp_path / name / "saved").exists() for name in begun)
    workers = [int(read(tmp_path / name, "workers")[0]) for name in begun]
    until(lambda: not any(map(is_alive, workers)))
    check_chains(tmp_path, map_chains(tmp_path, "abc", two.address), "abc")


def refuse(task: dict[str, Any]) -> None:
    if Path(task["folder"]).name == "bad":
        until(lambda: read(Path(task["folder"]).with_name("b")))
        raise UserError("the disk is full; make room")
    chain(task | {"steps": 20 * STEPS})  # Never done by itself before the other is heard of.


@needs_ray
def test_what_a_task_raises_ends_all_at_once(two: Nodes, tmp_path: Path):
    tasks = [{"folder": str(tmp_path / name)} for name in ("bad", "b", "c")]
    with pytest.raises(UserError, match=r"^the disk is full; make room$"):
        map_on_cluster(refuse, lambda many: tasks, address=two.address, on_done=print)
    assert (tmp_path / "b" / "saved").exists()
    assert not read(tmp_path / "c")


def crash(task: dict[str, Any]) -> None:
    print("attempt", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


@needs_ray
def test_a_task_that_is_lost_too_often_is_given_up(two: Nodes, tmp_path: Path):
    told = f"{tmp_path}/a lost its worker 2 times (The worker died unexpectedly"
    with pytest.raises(UserError, match=f"^{re.escape(told)}.*worker.log in it may") as error:
        map_on_cluster(
            crash, tasks_in(tmp_path, "a"), address=two.address, on_done=print, retries=1
        )
    assert "\n" not in str(error.value)
    log = (tmp_path / "a" / "worker.log").read_text()
    assert log.count("attempt") == 2
    assert "Segmentation fault" in log  # What a crash says is not lost with the machine.


_DRIVER = """
import pathlib, sys
import jax
from jax._src import xla_bridge
from tests.training import test_cluster
from xent_jax.errors import Interrupted
try:
    print(test_cluster.map_chains(pathlib.Path(sys.argv[1]), "abc", sys.argv[2]).keys())
except Interrupted as error:
    print("stopped:", error)
print("devices were touched" if xla_bridge.backends_are_initialized() else "no device was touched")
"""


def driver(folder: Path, address: str) -> subprocess.Popen[str]:
    """Starts a process of its own, as a terminal does: what its keys send goes to all it starts."""
    command = [sys.executable, "-c", _DRIVER, str(folder), address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


@needs_ray
def test_control_c_stops_a_cluster_of_its_own_which_leaves_nothing(tmp_path: Path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/ray_of_its_own")  # Else a cluster that runs is found.
    process = driver(tmp_path, "ray")
    worker = worker_of(tmp_path / "a")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "stopped: the workers saved what they had; run it again to continue\n" in out, err
    assert "no device was touched" in out
    assert (tmp_path / "a" / "saved").exists()
    until(lambda: not is_alive(worker))


@needs_ray
def test_a_driver_that_is_killed_takes_its_workers_along(two: Nodes, tmp_path: Path):
    process = driver(tmp_path, two.address)
    worker = worker_of(tmp_path / "a")
    process.kill()
    process.communicate()
    until(lambda: not is_alive(worker))
    assert 0 < len(read(tmp_path / "a")) < STEPS
    check_chains(tmp_path, map_chains(tmp_path, "abc", two.address), "abc")


@needs_ray
def test_a_cluster_elsewhere_is_reached_through_its_client_port(two: Nodes, tmp_path: Path):
    # In a process of its own, as Ray leaves traces of such a connection.
    out, err = driver(tmp_path, two.client).communicate(timeout=120)
    assert "dict_keys(['" in out, err
    assert "no device was touched" in out
    for name in "abc":
        assert read(tmp_path / name) == undisturbed(name)


def chip(task: dict[str, Any]) -> tuple[str | None, ...]:
    time.sleep(3)  # So that both are under way at once.
    return tuple(os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "JAX_X", "XLA_FLAGS"))


@needs_ray
def test_each_task_has_an_accelerator_of_its_own(tmp_path: Path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("JAX_X", "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_x=2")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 8, "num_gpus": 2, "include_dashboard": False}
    nodes, told = Cluster(initialize_head=True, head_node_args=SMALL | head), []
    try:
        map_on_cluster(
            chip,
            lambda many: tasks_in(tmp_path, "abcd"[:many])(many),
            address=nodes.address,
            on_done=lambda task, result: told.append(result),
        )
    finally:
        nodes.shutdown()
    assert not ray.is_initialized()
    assert sorted(told) == [("0", "1", "--xla_x=2"), ("1", "1", "--xla_x=2")]


def impatient_share(task: dict[str, Any]) -> float:
    """Trains a share slowly, and saves after every epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_SECONDS_BETWEEN_SAVES", 0.0)
        train = sweep._Training._epoch

        def epoch(*args: Any) -> Any:
            time.sleep(0.1)
            return train(*args)

        patch.setattr(sweep._Training, "_epoch", epoch)
        return train_share(task)


def study() -> ConfigDict:
    config = default_study()
    config.seeds, config.epochs, config.batch_size, config.eval_every_epochs = 2, 12, 50, 3
    config.dataset.train_examples = 300
    config.model = ConfigDict({"name": "mlp", "hidden": (8,)})
    config.grid = ConfigDict({"corruption": {"rate": (0.2, 0.4)}})
    config.corruption = ConfigDict({"name": "symmetric", "rate": 0.2})
    config.methods = (
        {"label": "CE"},
        {"label": "GCE", "loss": {"name": "generalized_cross_entropy"}},
        {"label": "wide", "model": {"name": "mlp", "hidden": (12,)}},
    )
    return config


def alone(workdir: str, data_dir: str) -> None:
    """Sweeps without a cluster."""
    sweep.sweep(study(), sweep.Place(Path(workdir), data_dir), progress=False)


def records_of(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    by_run: dict[str, list] = {}
    for path in sorted(workdir.glob("groups/**/records.jsonl")):
        for record in records.read(path):
            timeless = {k: v for k, v in record.items() if k not in ("timing", "environment")}
            by_run.setdefault(record["run"], []).append(timeless)
    return by_run


@needs_ray
def test_a_study_ends_with_the_same_records(two: Nodes, tmp_path: Path, monkeypatch, caplog):
    # Workers and the process that sweeps alone see the machine alike: this one has more devices.
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.setattr(cluster_sweep, "train_share", impatient_share)
    whole, workdir, killed = tmp_path / "whole", tmp_path / "study", []

    def a_stack_in_the_middle() -> int | None:
        """Returns a process that has saved its share, which is a stack here, and was not killed."""
        for lock in workdir.glob("workers/*/lock"):
            process = int(lock.read_text().split()[1])
            saved = workdir.glob(f"groups/*/{lock.parent.name}/checkpoints/step_*[0-9]")
            if process not in killed and is_alive(process) and any(saved):
                return process
        return None

    def trouble() -> None:
        killed.append(until(a_stack_in_the_middle))
        os.kill(killed[0], signal.SIGKILL)
        until(lambda: "The worker died" in caplog.text)
        killed.append(until(a_stack_in_the_middle))
        two.remove(two.of(killed[1]))

    process = multiprocessing.get_context("spawn").Process(
        target=alone, args=(str(whole), str(tmp_path))
    )
    process.start()
    process.join(120)
    thread = meanwhile(trouble)
    place = sweep.Place(workdir, str(tmp_path))
    cluster_sweep.sweep_on_cluster(study(), place, address=two.address, progress=False)
    thread.join()
    assert "The worker died" in caplog.text
    assert "Task failed because the node" in caplog.text
    expected = records_of(whole)
    assert len(expected) == 12
    assert records_of(workdir) == expected
    assert not [*workdir.glob("groups/**/checkpoints")]
    # Whoever does a share again that was finished after all finds nothing left to do.
    share = next(iter(cluster_sweep.shares(expand(study()), place, 2)))
    train_share(share)
    assert records_of(workdir) == expected


def test_groups_are_cut_for_the_machines_and_begun_stacks_are_not(tmp_path: Path):
    place, members = sweep.Place(tmp_path), expand(study())  # 8 runs of one group, 4 of another
    [first, *_] = groups_of(members)
    begun = [member.id for member in first[1:6]]
    stack = sweep.group_folder(tmp_path, first) / "begun"
    stack.mkdir(parents=True)
    (stack / "stack.json").write_text(json.dumps({"runs": begun}))
    cut = [*cluster_sweep.shares(members, place, 5)]
    assert [len(share["runs"]) for share in cut] == [5, 3, 3, 1]
    assert cut[0]["runs"] == begun
    assert sorted(run for share in cut for run in share["runs"]) == sorted(m.id for m in members)
    assert cut[0]["group"] == cut[1]["group"] == [member.id for member in first]
    assert len({share["folder"] for share in cut}) == 4


def test_a_folder_is_kept_for_one_at_a_time(tmp_path: Path, caplog, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_BETWEEN_LOOKS", 0.01)
    order, waiting = [], threading.Event()
    monkeypatch.setattr(cluster.logging, "warning", lambda *args: waiting.set())

    def second() -> None:
        with claimed(tmp_path):
            order.append("second")

    with claimed(tmp_path):
        thread = meanwhile(second)
        assert waiting.wait(10)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch):
    def without(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(cluster.fcntl, "flock", without)
    with (
        pytest.raises(UserError, match="lock cannot be locked: No locks available; choose"),
        claimed(tmp_path),
    ):
        pass


def test_ray_that_is_missing_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--cluster needs Ray: pip install '\.\[cluster\]'$"):
        map_on_cluster(chain, lambda many: [], address="ray", on_done=print)


@needs_ray
@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("auto", "--cluster=auto is no address; it is ray, or HOST:6379 or ray://HOST:10001"),
        ("localhost:1", "--cluster=localhost:1: [Errno 111] Connection refused; it is ray"),
        ("ray://localhost:1", "--cluster=ray://localhost:1: [Errno 111] Connection refused"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_in_one_line(address: str, told: str):
    pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        map_on_cluster(chain, lambda many: [], address=address, on_done=print)
