"""What the gate passed: released at once, or as soon as nothing stands in its way any more."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Literal, cast

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from feature_repo.errors import PerennialError
from flows.ingest import landed_until
from flows.project import Project
from flows.releasing.rollout import find_hindrance, release_passed
from flows.retrain_records import HELD, MET, PASSED, RELEASED, Retrain, read_retrains, record_retrain
from flows.summary import publish

Stage = Literal["full", "shadow", "canary"]
LONGEST = timedelta(days=28)  # of the data's time, after which what was judged then is judged anew


def release_judged(project: Project, passed: Retrain) -> Retrain:
    """Release what passed, unless another champion serves than it met, or something is in its way.

    Safe to repeat, and by several at once: the first one does it. Raises what `release_passed` raises.
    """
    with _alone(project):
        known = next((one for one in read_retrains(project.lake) if one.key == passed.key), passed)
        return _release(project, known) if known.state == PASSED else known


def release_waiting(project: Project) -> Retrain | None:
    """Release what passed last and still waits; None if nothing does. Trouble is told, and tried again."""
    with _alone(project):
        known = [one for one in read_retrains(project.lake) if one.state in {PASSED, RELEASED}]
        if not known:
            return None
        *older, newest = sorted(known, key=lambda one: (one.until, one.asked_at))
        for one in (one for one in older if one.state == PASSED):
            why = f"version {newest.version} passed later"
            record_retrain(project.lake, replace(one, state=HELD, why=why, released=""))
        if newest.state != PASSED:
            return None
        try:
            return _release(project, newest)
        except PerennialError as error:
            return record_retrain(project.lake, replace(newest, released=f"waits: {error}"))


def decline(project: Project, version: int, why: str) -> None:
    """Keep a version that passed from being released by itself: a person has turned it down."""
    with _alone(project):
        for one in read_retrains(project.lake):
            if (one.version, one.state) == (version, PASSED):
                record_retrain(project.lake, replace(one, state=HELD, why=why, released=""))


def name_champion(project: Project) -> str:
    """Return the version that the alias names, or "none"."""
    return str(project.registry.aliases().get("champion") or "none")


@task(name="release-waiting", cache_policy=NO_CACHE)
def release_waiting_step(project: Project) -> str:
    """Release what waits as a step of a larger flow, and show what came of it."""
    found = release_waiting(project)
    if found is None:
        return "nothing waits"
    text = f"version {found.version}: {found.released or found.why}"
    get_run_logger().warning(text)
    publish("release-waiting", text, "What passed and had not been released yet")
    return text


@task(name="release", cache_policy=NO_CACHE)
def release_step(project: Project, version: int, reason: str, stage: Stage, met: str | None = None) -> str:
    """Release a version that the gate passed, held against the champion that it `met`; return how."""
    against = int(met) if met and met.isdecimal() else None
    rollout = release_passed(project, version, reason, stage=stage, met=against)
    return f"{stage}: {rollout.state}"


def _release(project: Project, passed: Retrain) -> Retrain:
    assert passed.version is not None, "only what was trained passes"
    stage = cast("Stage", passed.stage)
    # Whoever made it champion, or set it beside, has decided on it already.
    moves = [move for move in project.releases.moves() if move.after == passed.version]
    if moves:
        told = f"{moves[0].alias} {moves[0].how}, by {moves[0].who}"
        return record_retrain(project.lake, replace(passed, state=RELEASED, released=told))
    if why := _find_end(project, passed):
        return record_retrain(project.lake, replace(passed, state=HELD, why=why))
    if why := find_hindrance(project, passed.version, stage):
        return record_retrain(project.lake, replace(passed, released=f"waits: {why}"))
    met = project.registry.read_version_tag(passed.version, MET)
    told = release_step(project, passed.version, passed.reason, stage, met)
    return record_retrain(project.lake, replace(passed, state=RELEASED, released=told))


def _find_end(project: Project, passed: Retrain) -> str:
    """Return why it is not to be released any more, or nothing."""
    met, serves = project.registry.read_version_tag(passed.version or 0, MET), name_champion(project)
    if met and serves not in {met, str(passed.version)}:
        return f"the gate held it against champion {met}, {serves} serves now: retrain, or promote it by hand"
    if landed_until(project) - passed.until > LONGEST:
        return f"it waited for more than {LONGEST.days} days: retrain, or promote it by hand"
    return ""


@contextmanager
def _alone(project: Project) -> Iterator[None]:
    """Keep other runs from releasing meanwhile; a dying process lets go."""
    folder = project.settings.home / "releases"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "passed.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
