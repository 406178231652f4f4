"""Tasks handed to the machines of a Ray cluster, an accelerator each; what is lost is done again.

Ray gives each task a process of its own. The machine that hands them out and those that work share
a file system, on which each task has a folder: whoever does a task again goes on from what is
there. A worker that is thought dead may still live, on a machine that the network lost. So a task
begins by locking its folder, and waits as long as another process holds that lock.
"""

import contextlib
import fcntl
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
from absl import logging

import xent_jax
from xent_jax.errors import Interrupted, UserError
from xent_jax.training.signals import StopRequest

Task = dict[str, Any]

_LOCAL = "ray"
_ADDRESSES = "it is ray, or HOST:6379 or ray://HOST:10001 of a cluster that runs"
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_ANSWER = 10.0
_INHERITED = ("JAX_", "XLA_")


class _Lost(Exception):
    """A task's process ended before the task; its text says why."""


def map_on_cluster(
    work: Callable[[Task], Any],
    make_tasks: Callable[[int], Iterable[Task]],
    *,
    address: str,
    on_done: Callable[[Task, Any], None],
    retries: int = 5,
) -> None:
    """Does `work(task)` for every task on the machines of a cluster, in any order.

    A task takes one GPU or TPU chip; where there are none, a whole machine. A task whose process
    or machine is lost is done again, elsewhere. No device is touched in this process, as those of
    its machine are for the workers. They import the same sources as this process, inherit its
    variables JAX_* and XLA_*, and print into `worker.log` in the task's folder.

    Args:
      work: a function that its module's name leads to; what it raises ends all tasks.
      make_tasks: given how many are done at a time, returns the tasks: what can be pickled, with a
        `folder` of its own, an absolute path that all machines see.
      address: 'ray' for the cluster that runs on this machine, which is started if there is none;
        'HOST:6379' for the one that this machine is a part of; 'ray://HOST:10001' for another's.
      on_done: called in this process with each task that ended, and what `work` returned.
      retries: how often each task is done again before all is given up.

    Raises:
      UserError: Ray is not installed, the cluster cannot be reached or has no machine, or a task
        was lost too often.
      Interrupted: SIGTERM or SIGINT; the workers were asked to save and stop, and did.
    """
    ray = _import_ray()
    with _connected(ray, address), StopRequest() as stop:
        needs, at_a_time = _room(ray)
        give = partial(_remote(ray, needs), work)
        running = {give(task): (task, 0) for task in make_tasks(at_a_time)}
        try:
            while running and not stop.asked():
                for reference in _ended(ray, running):
                    task, losses = running.pop(reference)
                    try:
                        result = _result(ray, reference)
                    except _Lost as loss:
                        _tell_or_give_up(task, str(loss), losses, retries)
                        running[give(task)] = task, losses + 1
                    else:
                        on_done(task, result)
        finally:
            _stop(ray, list(running))
        if stop.asked():
            raise Interrupted("the workers saved what they had; run it again to continue")


@contextlib.contextmanager
def claimed(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps a folder for this process; if another has it, waits until that one leaves or ends.

    The lock is the system's and ends with the process that holds it, however that ends. Over
    machines it holds where their file system says so: NFS does, and frees what a machine held that
    it has not heard of for long; Lustre does if mounted with `flock`.

    Raises:
      UserError: the file system has no locks.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / "lock").open("a+") as file:
        _lock(file)
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield


def _lock(file: TextIO) -> None:
    told = False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                file.seek(0)
                logging.warning("%s is held by %s; waiting for it", file.name, file.read().strip())
            told = True
            # Not a lock that waits: Ray's wish to stop would not be heard.
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        except OSError as error:
            raise UserError(
                f"{file.name} cannot be locked: {error.strerror}; choose a folder on a file system "
                "with locks (Lustre has them if mounted with the option flock)"
            ) from error


def _import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--cluster needs Ray: pip install '.[cluster]'") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    # A cluster that is started here reports to Ray's authors only where the user wishes it to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    terminated = signal.getsignal(signal.SIGTERM)  # Ray sets a handler of its own.
    if address != _LOCAL:
        _check_answers(address)
    try:
        _connect(ray, address)
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(
            address=None if address == _LOCAL else address,
            runtime_env={"env_vars": _environment()},
            logging_level="ERROR",  # We tell of losses ourselves.
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        reason = " ".join(line.strip() for line in (*lines[:1], *lines[1:][-1:]))
        raise UserError(f"--cluster={address}: {reason}; {_ADDRESSES}") from error


def _check_answers(address: str) -> None:
    """Tells of an address at which nothing answers, as Ray does only after minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--cluster={address} is no address; {_ADDRESSES}")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise UserError(f"--cluster={address}: {error}; {_ADDRESSES}") from error


def _environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k.startswith(_INHERITED)}
    sources = str(Path(xent_jax.__file__).parents[1])
    paths = [sources, *filter(None, [os.environ.get("PYTHONPATH")])]
    if directory := jax.config.values["jax_compilation_cache_dir"]:
        inherited["JAX_COMPILATION_CACHE_DIR"] = directory
    return inherited | {"PYTHONPATH": os.pathsep.join(paths)}


def _room(ray: Any) -> tuple[dict[str, Any], int]:
    """Returns what a task takes of a machine, and how many are done at a time."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, needs in (("GPU", {"num_gpus": 1}), ("TPU", {"resources": {"TPU": 1}})):
        if chips := sum(int(machine.get(kind, 0)) for machine in machines):
            return needs, chips
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU")]
    if not cores:
        raise UserError("--cluster: no machine of it takes tasks; add one with `ray start`")
    return {"num_cpus": min(cores)}, sum(count // min(cores) for count in cores)


def _remote(ray: Any, needs: dict[str, Any]) -> Callable[..., Any]:
    """Returns the function that hands a task to the cluster."""
    # A process per task: JAX gives an accelerator's memory back by ending. We retry, not Ray, as
    # it would do so without a word.
    options = {"max_calls": 1, "max_retries": 0, "scheduling_strategy": "SPREAD"}
    return ray.remote(**options | needs)(_done_alone).remote


def _done_alone(work: Callable[[Task], Any], task: Task) -> Any:
    folder = Path(task["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with _printing(folder / "worker.log"), claimed(folder):
        return work(task)


@contextlib.contextmanager
def _printing(path: Path) -> Iterator[None]:
    """Lets this process print into a file, as Ray's own are lost with the machine.

    What libraries say as they crash goes there too.
    """
    with path.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 2)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield


def _ended(ray: Any, running: Iterable[Any]) -> list[Any]:
    return ray.wait(list(running), timeout=_SECONDS_BETWEEN_LOOKS)[0]


def _result(ray: Any, reference: Any) -> Any:
    """Returns what a task returned, or raises what it raised, or _Lost."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Whoever takes a machine away may first ask its processes to save and stop.
        if isinstance(error.cause, Interrupted):
            raise _Lost(str(error.cause)) from error
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise _Lost(re.split(r"[.\n]", str(error).strip(), maxsplit=1)[0]) from error


def _tell_or_give_up(task: Task, reason: str, losses: int, retries: int) -> None:
    if losses == retries:
        raise UserError(
            f"{task['folder']} lost its worker {losses + 1} times ({reason}); worker.log in it "
            "may tell more: if memory is short, let fewer runs share a stack"
        )
    logging.warning("%s lost its worker (%s); it goes on in another", task["folder"], reason)


def _stop(ray: Any, references: list[Any]) -> None:
    """Asks the tasks to save and stop, as SIGINT would, and waits until they did."""
    for reference in references:
        ray.cancel(reference)
    while references:
        references = ray.wait(references, timeout=_SECONDS_BETWEEN_LOOKS)[1]
