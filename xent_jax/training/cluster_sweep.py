"""A study trained by the machines of a cluster, each of which takes a share of a group's runs.

The folder is that of `sweep.py`, and either continues what the other began:

    WORKDIR/groups/GROUP/STACK   as there
    WORKDIR/workers/SHARE        worker.log, what the share's workers printed
"""

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from tqdm import tqdm

from xent_jax.training.cluster import Task, claimed, map_on_cluster
from xent_jax.training.config import Config
from xent_jax.training.grouping import groups_of
from xent_jax.training.progress import Progress
from xent_jax.training.signals import StopRequest
from xent_jax.training.stack import use_cores
from xent_jax.training.study import Member, expand, is_few_shot, matching
from xent_jax.training.sweep import (
    Place,
    begun_stacks,
    claim,
    digest,
    group_folder,
    members_of,
    train_group,
    unfinished,
)


def sweep_on_cluster(
    config: Config,
    place: Place,
    *,
    address: str,
    only: Iterable[str] = (),
    command: str = "",
    progress: bool = True,
) -> None:
    """Trains the runs of a study that are not finished yet, as `sweep` does, on many machines.

    Args:
      config: a study's, as `default_study` makes it.
      place: the folder to write, and where data are; all machines see the same there.
      address: of the cluster, as `map_on_cluster` reads it.
      only: filters, as `matching` reads them.
      command: what trains this study, to be told beside each run.
      progress: show a bar where there is a terminal, and a line per share.

    Raises:
      UserError: bad input of any kind, in one line.
      Interrupted: SIGTERM or SIGINT; what was under way was saved.
    """
    place = _absolute(place)
    members = matching(expand(config), only)
    with claimed(place.workdir):
        claim(place.workdir, config, members, command)
        todo = unfinished(place.workdir, members)
        with Progress(len(members), len(todo), shown=progress) as told:

            def on_done(task: Task, seconds: float) -> None:
                runs = len(task["runs"])
                told.advance(float(runs))
                if progress:
                    tqdm.write(f"{runs} runs trained in {seconds:.1f} s", file=sys.stderr)

            if todo:
                make_tasks = partial(shares, todo, place)
                map_on_cluster(train_share, make_tasks, address=address, on_done=on_done)


def train_share(task: Task) -> float:
    """Trains, in a worker, the runs of a share that are not finished; returns the seconds."""
    began, place = time.monotonic(), task["place"]
    members = unfinished(place.workdir, members_of(place.workdir, task["runs"]))
    use_cores(len(members), factorise=any(map(is_few_shot, members)))
    group = members_of(place.workdir, task["group"])
    folder = group_folder(place.workdir, group)
    with Progress(len(members), len(members), shown=False) as told, StopRequest() as stop:
        if members:
            told.begin(task["folder"], members)
            train_group(members, group, folder, place, told, stop)
    return time.monotonic() - began


def shares(todo: Sequence[Member], place: Place, many: int) -> Iterator[Task]:
    """Yields the groups cut into at least `many` tasks, if there are as many runs.

    A stack that was begun is a task of its own.
    """
    size = math.ceil(len(todo) / many)
    for group in groups_of(todo):
        ids = [member.id for member in group]
        cut = [
            runs for runs in begun_stacks(group_folder(place.workdir, group)) if {*runs} <= {*ids}
        ]
        rest = [run for run in ids if not any(run in runs for runs in cut)]
        cut += [rest[i : i + size] for i in range(0, len(rest), size)]
        for runs in cut:
            folder = str(place.workdir / "workers" / digest(runs))
            yield {"folder": folder, "runs": runs, "group": ids, "place": place}


def _absolute(place: Place) -> Place:
    """Returns the place as it is named wherever a process may stand."""
    data, raw = (path and os.path.abspath(path) for path in (place.data_dir, place.raw_dir))
    return place._replace(workdir=place.workdir.absolute(), data_dir=data, raw_dir=raw)
