"""A study's runs, trained in stacks: one compiled program per group, records that outlive crashes.

    WORKDIR/runs.json                        every run: its method, conditions, seed and config
    WORKDIR/groups/GROUP/STACK/stack.json    the runs that are trained together
                              /records.jsonl one line per run and evaluation
                              /checkpoints   the stack's state, until it is finished
                              /finished.json what the stack took

A stack that was killed goes on from its newest checkpoint, with the records up to there. Runs are
known by what their configs say, so that a study that has grown trains only what is new.
"""

import hashlib
import json
import operator
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from xent_jax.errors import Interrupted, UserError
from xent_jax.reporting import records
from xent_jax.training.checkpoint import Checkpointer
from xent_jax.training.cluster import claimed
from xent_jax.training.config import Config, as_plain, differences
from xent_jax.training.grouping import Group, assemble, groups_of, load_splits_of, signature
from xent_jax.training.progress import Progress
from xent_jax.training.signals import StopRequest
from xent_jax.training.stack import Compiled, compile_stack
from xent_jax.training.study import Member, expand, matching

_SECONDS_BETWEEN_SAVES = 60.0
_MAY_GROW = ("seed", "seeds", "methods", "grid", "tune", "report")
"""Keys of a study whose change makes other runs, not another study."""


class Place(NamedTuple):
    """Where a study is trained."""

    workdir: Path
    data_dir: str | None = None
    raw_dir: str | None = None
    memory: float | None = None  # bytes of each device that stacks may take; None: what is sensible


def sweep(
    config: Config,
    place: Place,
    *,
    only: Iterable[str] = (),
    command: str = "",
    progress: bool = True,
) -> None:
    """Trains the runs of a study that are not finished yet, and writes their records.

    Args:
      config: a study's, as `default_study` makes it.
      place: the folder to write, and where data are.
      only: filters, as `matching` reads them.
      command: what trains this study, to be told beside each run.
      progress: show a bar where there is a terminal, and a line per group.

    Raises:
      UserError: bad input of any kind, in one line.
      Interrupted: SIGTERM or SIGINT; what was under way was saved.
    """
    members = matching(expand(config), only)
    with claimed(place.workdir), StopRequest() as stop:
        todo = unfinished(place.workdir, members)
        groups = groups_of(todo)
        for group in groups:
            _check(group, place)
        claim(place.workdir, config, members, command)
        with Progress(len(members), len(todo), shown=progress) as told:
            for number, group in enumerate(groups, start=1):
                told.begin(f"group {number} of {len(groups)}", group)
                train_group(group, group, group_folder(place.workdir, group), place, told, stop)


def _check(group: Sequence[Member], place: Place) -> None:
    """Tells of what is wrong with any run of a group, before any other is trained."""
    kinds = {m.id: json.dumps(as_plain(m.config) | {"seed": 0}, sort_keys=True) for m in group}
    some = list({kinds[m.id]: m for m in group}.values())
    found = assemble(some, group, load_splits_of(group[0].config, place))
    jax.eval_shape(found.trainable.init, found.facts[0])


def forecast(config: Config, place: Place, *, only: Iterable[str] = ()) -> str:
    """Returns what a sweep would train, and what it would take; nothing is written.

    The memory is what the compiler says of the whole stack. The time is that of one epoch, timed
    after the first, times the number of epochs and stacks; compiling comes on top, and evaluation.
    """
    members = matching(expand(config), only)
    todo = unfinished(place.workdir, members)
    methods = dict.fromkeys(member.method for member in members)
    conditions = {json.dumps([m.conditions, m.tuned]): None for m in members}
    lines = [
        f"{len(members)} runs: {len(methods)} methods ({', '.join(methods)}), {len(conditions)} "
        f"conditions, {len({m.seed for m in members})} seeds; {len(todo)} are left to train"
    ]
    lines += [
        f"group {number}: {_taken(group, place)}"
        for number, group in enumerate(groups_of(todo), start=1)
    ]
    return "\n".join(lines)


def _taken(members: Sequence[Member], place: Place) -> str:
    """Returns what a group's training takes, in words."""
    config = members[0].config
    group = assemble(members, members, load_splits_of(config, place))
    program = compile_stack(
        group.trainable, group.facts[0], group.shared, len(members), place.memory
    )
    facts, stack = program.place(group.facts[: program.runs]), program.stack
    state, seconds = stack.init(facts), 0.0
    for epoch in range(2):
        began = time.perf_counter()
        state, _, _ = stack.train(state, facts, program.shared, np.int32(epoch))
        jax.block_until_ready(state)
        seconds = time.perf_counter() - began
    stacks = -(-len(members) // program.runs)
    devices = len(stack.by_run.mesh.devices)
    return (
        f"{config.model.name}, {len(members)} runs of {config.epochs} epochs, in {stacks} stacks "
        f"of {program.runs} runs on {devices} devices; {program.bytes / 2**20:,.0f} MiB of each "
        f"device; compiled in {program.seconds:.1f} s, about "
        f"{seconds * config.epochs * stacks:,.0f} s of training"
    )


def train_group(
    members: Sequence[Member],
    group: Sequence[Member],
    folder: Path,
    place: Place,
    told: Progress,
    stop: StopRequest,
) -> None:
    """Trains some runs of a group in `folder`: first the stacks begun there, then new ones.

    Args:
      members: the runs to train.
      group: all runs of their group, as one program has the losses of them all.
      folder: where their stacks lie, and no others.
      place: where data are, and the memory to take.
      told: hears of what goes on.
      stop: asks for an end.
    """
    assembled = assemble(members, group, load_splits_of(group[0].config, place))
    facts = {m.id: found for m, found in zip(members, assembled.facts, strict=True)}
    begun = [runs for runs in begun_stacks(folder) if facts.keys() >= {*runs}]
    rest = [m.id for m in members if not any(m.id in runs for runs in begun)]
    programs: dict[int, Compiled] = {}
    shown = _of_first_seed(place.workdir)
    while begun or rest:
        many = len(begun[0]) if begun else len(rest)
        if many not in programs:
            programs[many] = _compiled(assembled, many, place, told)
        program = programs[many]
        if not begun:  # As many as fit; those that were begun stay as they are.
            begun = [rest[i : i + program.runs] for i in range(0, many, program.runs)]
            programs |= {len(runs): program for runs in begun}
            rest = []
        runs = begun.pop(0)
        _check_fits(folder, runs, program)
        training = _Training(folder, runs, program, assembled, shown)
        training.train([facts[run] for run in runs], told, stop)


def claim(workdir: Path, config: Config, members: Sequence[Member], command: str) -> None:
    """Writes the study's runs beside those already there, if it is the same study's folder.

    Raises:
      UserError: it holds another study, or cannot be written.
    """
    path = workdir / "runs.json"
    plain = as_plain(config)
    listed = {m.id: _described(m, command) for m in members}
    try:
        there = json.loads(path.read_text()) if path.exists() else {"config": plain, "runs": []}
        _check_same_study(workdir, plain, there["config"])
        runs = _kept(workdir, {run["id"]: run for run in there["runs"]}, listed)
        # In the grid's order, unless this is a part of what there is.
        runs = listed if listed.keys() >= runs.keys() else runs | listed
        _make(workdir, path.name, {"config": plain, "runs": [*runs.values()]})
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error}; choose another") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); delete it and run the same command again, which "
            "writes it anew and keeps what is trained"
        ) from None


def unfinished(workdir: Path, members: Sequence[Member]) -> list[Member]:
    """Returns the runs that no finished stack holds."""
    ended = {
        run
        for path in workdir.glob("groups/**/finished.json")
        for run in _runs_of(path.parent / "stack.json")
    }
    return [member for member in members if member.id not in ended]


def group_folder(workdir: Path, group: Sequence[Member]) -> Path:
    """Returns the folder of a group's stacks, which what is common to its runs names."""
    return workdir / "groups" / digest(signature(group[0].config))


def members_of(workdir: Path, ids: Iterable[str]) -> list[Member]:
    """Returns runs of a claimed folder by their ids, in another process for instance."""
    runs = {run["id"]: run for run in json.loads((workdir / "runs.json").read_text())["runs"]}
    keys = ("id", "method", "conditions", "tuned", "seed")
    return [
        Member(**{key: runs[run][key] for key in keys}, config=ConfigDict(runs[run]["config"]))
        for run in ids
    ]


def _of_first_seed(workdir: Path) -> frozenset[str]:
    """Returns the claimed runs of the first seed, finished ones and other machines' among them."""
    runs = json.loads((workdir / "runs.json").read_text())["runs"]
    first = min(run["seed"] for run in runs)
    return frozenset(run["id"] for run in runs if run["seed"] == first)


class _Training:
    """One stack's way from its folder back to it."""

    def __init__(
        self,
        folder: Path,
        runs: Sequence[str],
        program: Compiled,
        group: Group,
        shown: frozenset[str],
    ):
        self._folder, self._runs, self._program = folder / digest(runs), runs, program
        self._trainable, self._every = group.trainable, group.members[0].config.eval_every_epochs
        self._shown = shown  # whose features are recorded
        self._seconds = 0.0  # of training and evaluation, in all processes that worked on it
        self._diverged: dict[str, int] = {}  # the epoch in which a run's numbers were not finite

    def train(self, facts: Sequence[Any], told: Progress, stop: StopRequest) -> None:
        """Trains the runs to their end and writes their records.

        Raises:
          Interrupted: `stop` was asked for; the state was saved.
        """
        _make(self._folder, "stack.json", {"runs": [*self._runs]})
        checkpoints = Checkpointer(self._folder / "checkpoints", keep=1)
        placed, epochs = self._program.place(facts), self._trainable.epochs
        first, state = self._begun(checkpoints, placed)
        told.advance(len(self._runs) * first / epochs)
        saved = time.monotonic()
        for epoch in range(first + 1, epochs + 1):
            state = self._epoch(state, placed, epoch)
            told.advance(len(self._runs) / epochs)
            waited = time.monotonic() - saved > _SECONDS_BETWEEN_SAVES
            if epoch < epochs and (waited or stop.requested()):
                self._save(checkpoints, epoch, state)
                saved = time.monotonic()
            if epoch < epochs and stop.requested():
                raise Interrupted("the sweep was saved; the same command continues it")
        _make(self._folder, "finished.json", {"seconds": self._seconds})
        shutil.rmtree(self._folder / "checkpoints", ignore_errors=True)

    def _begun(self, checkpoints: Checkpointer, facts: Any) -> tuple[int, Any]:
        """Returns how many epochs are behind the stack, and its state; later records are cut."""
        state = self._program.stack.init(facts)
        epoch, real = 0, len(self._runs)
        abstract = jax.tree.map(lambda x: np.empty((real, *x.shape[1:]), x.dtype), state)
        if restored := checkpoints.restore_newest(abstract):
            _, host, metadata = restored
            epoch, self._seconds = metadata["epoch"], metadata["seconds"]
            self._diverged = metadata["diverged"]
            over = self._program.size - real
            filled = jax.tree.map(lambda x: np.concatenate([x, *[x[-1:]] * over]), host)
            state = jax.device_put(filled, self._program.stack.by_run)
        records.truncate(self._folder / "records.jsonl", self._step(epoch))
        return epoch, state

    def _save(self, checkpoints: Checkpointer, epoch: int, state: Any) -> None:
        real = len(self._runs)
        host = jax.tree.map(lambda x: np.asarray(x)[:real], state)
        metadata = {"epoch": epoch, "seconds": self._seconds, "diverged": self._diverged}
        checkpoints.save(self._step(epoch), host, metadata)

    def _epoch(self, state: Any, facts: Any, epoch: int) -> Any:
        """Returns the state after one more epoch, which is recorded where that is due."""
        began, stack, shared = time.perf_counter(), self._program.stack, self._program.shared
        state, metrics, finite = stack.train(state, facts, shared, np.int32(epoch - 1))
        metrics, finite = jax.device_get((metrics, finite))
        ended = {run for run, sound in zip(self._runs, finite, strict=False) if not sound}
        ended -= self._diverged.keys()
        self._diverged |= dict.fromkeys(sorted(ended), epoch)
        due = epoch % self._every == 0 or epoch == self._trainable.epochs
        fields = self._evaluated(state, facts, epoch) if due else {}
        self._seconds += time.perf_counter() - began
        lines = [self._line(run, epoch) | {"diverged": True} for run in self._runs if run in ended]
        for row, (run, found) in enumerate(zip(self._runs, fields, strict=bool(fields))):
            loss = np.average(metrics.loss[row], weights=metrics.examples[row])
            if run not in self._diverged:
                lines.append(self._line(run, epoch) | {"train": {"loss": loss}} | found)
        if lines:
            records.append_all(self._folder / "records.jsonl", lines)
        return state

    def _evaluated(self, state: Any, facts: Any, epoch: int) -> list[dict[str, Any]]:
        """Returns the fields of each run's record."""
        stack, shared, finished = self._program.stack, self._program.shared, None
        sums = jax.device_get(stack.evaluate(state, facts, shared))
        if epoch == self._trainable.epochs:
            finished = jax.device_get(stack.finish(state, facts, shared))
        fields = []
        for row, run in enumerate(self._runs):
            own = jax.tree.map(operator.itemgetter(row), (sums, finished))
            found = {} if run in self._diverged else self._trainable.describe(*own)
            if run not in self._shown:
                found.pop("embedding", None)
            fields.append(found)
        return fields

    def _line(self, run: str, epoch: int) -> dict[str, Any]:
        # A run's seconds are its share of the stack's.
        line = {"run": run, "epoch": epoch, "step": self._step(epoch)}
        line["timing"] = {"seconds": self._seconds / len(self._runs)}
        if epoch == self._trainable.epochs:
            line["environment"] = records.describe_environment()
        return line

    def _step(self, epoch: int) -> int:
        return epoch * self._trainable.steps_per_epoch


def _compiled(group: Group, runs: int, place: Place, told: Progress) -> Compiled:
    program = compile_stack(group.trainable, group.facts[0], group.shared, runs, place.memory)
    told.compiled(program)
    return program


def begun_stacks(folder: Path) -> list[list[str]]:
    """Returns the runs of each stack that a folder holds and that is not finished."""
    stacks = sorted(path for path in folder.glob("*/stack.json"))
    left = [path for path in stacks if not path.with_name("finished.json").exists()]
    return [_runs_of(path) for path in left]


def _runs_of(path: Path) -> list[str]:
    """Returns the runs of a stack, by its `stack.json`."""
    try:
        return [*map(str, json.loads(path.read_text())["runs"])]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); delete the folder {path.parent} and run the same "
            "command again, which trains its runs anew"
        ) from None


def _check_fits(folder: Path, runs: Sequence[str], program: Compiled) -> None:
    if program.runs < len(runs):
        raise UserError(
            f"{folder / digest(runs)}: its {len(runs)} runs were begun where there was more "
            "memory; continue them there, or delete that folder to begin anew"
        )


def _described(member: Member, command: str) -> dict[str, Any]:
    described = member._asdict() | {"config": as_plain(member.config)}
    alone = f"--workdir=runs/alone_{member.id} --only=id={member.id}"
    return described | {"command": f"{command} {alone}"}


def _kept(
    workdir: Path, there: Mapping[str, Any], listed: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns the runs there are, without those never begun whose place another one takes.

    Raises:
      UserError: one that was begun would share its place in the report with another.
    """
    places = {_place_of(run): run for run in listed.values()}
    begun = {run for path in workdir.glob("groups/**/stack.json") for run in _runs_of(path)}
    kept = {}
    for name, run in there.items():
        other = places.get(_place_of(run), run)
        if other["id"] == name:
            kept[name] = run
        elif name in begun:
            changed = differences(other["config"], run["config"])
            raise UserError(
                f"--workdir={workdir} holds runs of the method {run['method']!r} with another "
                f"config ({'; '.join(changed[:3])}); give it another label, or choose another "
                "--workdir"
            )
    return kept


def _place_of(run: Mapping[str, Any]) -> str:
    """Returns what a report knows a run by."""
    keys = ("method", "conditions", "tuned", "seed")
    return json.dumps([run[key] for key in keys], sort_keys=True)


def _check_same_study(workdir: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    a, b = ({k: v for k, v in plain.items() if k not in _MAY_GROW} for plain in (ours, theirs))
    if differing := differences(a, b):
        raise UserError(
            f"--workdir={workdir} holds another study ({'; '.join(differing[:3])}); "
            "choose another --workdir, or delete that folder"
        )


def digest(text: Any) -> str:
    """Returns a short name for what JSON can hold."""
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:10]


def _make(folder: Path, name: str, content: Any) -> None:
    """Writes a file of JSON whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.unfinished"
    temporary.write_text(json.dumps(content) + "\n")
    os.replace(temporary, folder / name)
