"""The trials of a search in Optuna's storage: written as they happen, shared by processes, kept through any end."""

from __future__ import annotations

import itertools
import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from netpress.errors import RecipeError
from netpress.search.goal import Goal, Row, State
from netpress.search.space import Policy, Space

NAME = "netpress"
LOST_AFTER_S = 3600
"""A trial on another machine that gave no sign of life for so long is taken for lost."""
_WAIT_S, _POLL_S = 20.0, 0.05
_NEIGHBOURS = 40
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "halved",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A trial with all that is known of it.

    Attributes:
        row: as samplers see it; its number counts trials that were not interrupted.
        stored: its number in the storage.
        rungs: what every rung measured.
        foreseen: costs that were expected.
        seconds, where, error: how it ran.
        interrupted: whether its process ended in the midst of it; its policy is tried again.
    """

    row: Row
    stored: int
    rungs: tuple[Mapping[str, Any], ...] = ()
    foreseen: Mapping[str, float] | None = None
    seconds: float = 0.0
    where: str = ""
    error: str = ""
    interrupted: bool = False


Chooser = Callable[[Sequence[Tried]], Policy]
"""Given the trials before that were not interrupted, a policy."""


class Study:
    """Asks for trials and keeps what they gave; several processes may hold the same one.

    Args:
        storage: of `open_storage`.
        space: of the search.
        goal: of the search.
        identity: what must be equal for trials to be comparable: network, data, space, evaluation.

    Raises:
        RecipeError: the storage holds the study of another network or data set, or was made with other settings.
    """

    def __init__(self, storage: BaseStorage, space: Space, goal: Goal, identity: Mapping[str, str]) -> None:
        self.space, self.goal = space, goal
        self._choose: Chooser | None = None
        self._kinds = {d.name: CategoricalDistribution(d.values) for d in space}
        self.optuna = optuna.create_study(
            storage=storage,
            study_name=NAME,
            sampler=_Chosen(self),
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        self._claim(identity)
        self._open: dict[int, optuna.Trial] = {}
        self._mend()

    def _claim(self, identity: Mapping[str, str]) -> None:
        earlier = self.optuna.user_attrs.get("identity")
        if earlier is None:
            self.optuna.set_user_attr("identity", dict(identity))
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                self.optuna.set_metric_names(["top1", "load"])  # what its dashboard calls them
            return
        for what, mine in identity.items():
            if earlier.get(what) != mine:
                raise RecipeError(
                    f"the study was made for another {what} ({earlier.get(what)}, now {mine}): "
                    "choose another --out, or --fresh to throw it away"
                )

    def _mend(self) -> None:
        """Trials whose process is gone are failed without an error; `ask` gives their policies out again."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _lost(trial):  # another process may see that at the same moment
                self.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def alone(self) -> bool:
        """Whether no trial runs anywhere; those whose process is gone are given out again first."""
        self._mend()
        return not self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def tried(self) -> list[Tried]:
        """All trials that have a policy, oldest first."""
        found: list[Tried] = []
        number = 0
        for trial in self.optuna.get_trials(deepcopy=False):
            if set(trial.params) != set(self._kinds):
                continue  # its process ended before it was told what to try, or is just being told
            one = _tried(trial, number)
            number += not one.interrupted
            found.append(one)
        return found

    def counted(self) -> list[Tried]:
        """Those of them that were not interrupted; their numbers have no gap."""
        return [one for one in self.tried() if not one.interrupted]

    def ask(self, choose: Chooser, foresee: Callable[[Policy], Mapping[str, float]]) -> Tried:
        """Begin a trial whose policy no other trial has.

        Args:
            choose: what to try; not asked where an interrupted trial waits to be tried again.
            foresee: costs of a policy.
        """
        self._choose = choose
        trial = self.optuna.ask(fixed_distributions=dict(self._kinds))
        trial.set_user_attr("owner", _me())
        trial.set_user_attr("beat", time.time())
        trial.set_user_attr("foreseen", dict(foresee(trial.params)))
        self._open[trial.number] = trial
        return next(one for one in reversed(self.tried()) if one.stored == trial.number)

    def note(self, stored: int, rungs: Sequence[Mapping[str, Any]]) -> None:
        """Keep what the rungs of a running trial measured."""
        trial = self._open[stored]
        trial.set_user_attr("rungs", [dict(rung) for rung in rungs])
        trial.set_user_attr("beat", time.time())

    def end(self, stored: int, state: State, *, seconds: float, where: str, error: str = "") -> None:
        """Close a trial; what `note` kept last is its result."""
        trial = self._open.pop(stored)
        for name, value in (("seconds", seconds), ("where", where), ("error", error)):
            trial.set_user_attr(name, value)
        if state == "complete":
            last = trial.user_attrs["rungs"][-1]
            self.optuna.tell(trial, [last["top1"], self.goal.load(last["costs"])])
        else:
            self.optuna.tell(trial, state=TrialState.PRUNED if state == "halved" else TrialState.FAIL)

    def give_up(self) -> None:
        """What is still running here is interrupted; its policies are tried again the next time."""
        for trial in self._open.values():
            self.optuna.tell(trial, state=TrialState.FAIL)
        self._open.clear()

    # --- choosing ---

    def chosen(self, number: int) -> Policy:
        """The policy of a trial that was just begun; every older one has its own by then."""
        assert self._choose is not None
        self._settled(number)
        tried = [one for one in self.tried() if one.stored < number]
        counted = [one for one in tried if not one.interrupted]
        taken = {self._key(one.row.policy) for one in counted}
        for one in tried:
            if one.interrupted and self._key(one.row.policy) not in taken:
                return one.row.policy
        return self._new(self._choose(counted), taken, len(counted))

    def _key(self, policy: Policy) -> tuple[Any, ...]:
        return tuple(policy[dimension.name] for dimension in self.space)

    def _settled(self, number: int) -> None:
        """Wait until the trials before this one have their policies, so that no two can choose the same."""
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            trials = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if all(set(t.params) == set(self._kinds) for t in trials if t.number < number):
                return
            time.sleep(_POLL_S)

    def _new(self, policy: Policy, taken: set[tuple[Any, ...]], number: int) -> Policy:
        """The policy, or where it was tried before, one nearby that was not, or any that was not."""
        generator = np.random.default_rng((number, 1))
        near = policy
        for tries in range(1, _NEIGHBOURS):
            if self._key(near) not in taken:
                return near
            near = self.space.policy(
                self.space.point(policy) + generator.normal(0, 0.03 * tries, len(self.space.dimensions))
            )
        left = (each for each in itertools.product(*(d.values for d in self.space)) if each not in taken)
        found = next(left, None)  # none: everything was tried
        names = [dimension.name for dimension in self.space]
        return policy if found is None else dict(zip(names, found, strict=True))


class _Chosen(BaseSampler):
    """Optuna's side of `Study.chosen`."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        return dict(self.study._kinds)

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        return dict(self.study.chosen(trial.number))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError(param_name)


def forget(storage: BaseStorage) -> None:
    """Throw the study of an earlier search away, where the storage holds one."""
    with suppress(KeyError):
        optuna.delete_study(study_name=NAME, storage=storage)


def open_storage(where: str | None, folder: Path) -> BaseStorage:
    """A storage by URL, or the journal in a folder.

    Args:
        where: None, a path of a journal, or a database as `sqlite:///trials.db`, `postgresql://...`.
        folder: of the search.

    Raises:
        RecipeError: the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if where is None or "://" not in where:
        return JournalStorage(JournalFileBackend(str(folder / "study.log" if where is None else where)))
    try:
        return RDBStorage(where)
    except Exception as error:  # a driver that is missing, an address that nobody answers: each has its own class
        text = " ".join(str(error).split())[:200]
        raise RecipeError(f"--storage {where}: cannot be opened: {text}") from error


def _tried(trial: FrozenTrial, number: int) -> Tried:
    kept = trial.user_attrs
    rungs = tuple(kept.get("rungs", ()))
    row = Row(number, dict(trial.params), _STATES.get(trial.state, "running"))
    if rungs:
        row = replace(row, top1=rungs[-1]["top1"], costs=rungs[-1]["costs"], rung=len(rungs) - 1)
    return Tried(
        row,
        trial.number,
        rungs,
        kept.get("foreseen"),
        kept.get("seconds", 0.0),
        kept.get("where", ""),
        kept.get("error", ""),
        interrupted=row.state == "failed" and "error" not in kept,
    )


def _me() -> str:
    """This process, told apart from a later one of the same number."""
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid())}"


def _began(pid: int) -> str:
    """When a process began, as far as this system says: clock ticks since the machine started."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _lost(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is gone."""
    owner: str = trial.user_attrs.get("owner", "")
    began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    silent: float = time.time() - trial.user_attrs.get("beat", began)
    if not owner:
        return silent > _WAIT_S  # killed between two lines of `ask`
    host, pid, start = owner.split(" ")
    if host != socket.gethostname():
        return silent > LOST_AFTER_S
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return start != _began(int(pid))
