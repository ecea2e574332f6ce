"""What the gate passed: released at once, or as soon as nothing stands in its way any more."""

from dataclasses import replace
from datetime import timedelta
from typing import Literal, cast

from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.errors import PerennialError
from flows.project import Project
from flows.releasing.rollout import find_hindrance, release_passed
from flows.retrain_records import HELD, MET, PASSED, RELEASED, Retrain, now, read_retrains, record_retrain

Stage = Literal["full", "shadow", "canary"]
AT_IT = timedelta(hours=1)  # in which the run that asked may itself still be at the release


def release_judged(project: Project, passed: Retrain) -> Retrain:
    """Release what passed, unless another champion serves than it met, or something is in its way."""
    assert passed.version is not None, "only what was trained passes"
    stage = cast("Stage", passed.stage)
    met, serves = project.registry.read_version_tag(passed.version, MET), name_champion(project)
    if met and serves not in {met, str(passed.version)}:
        why = f"the gate held it against champion {met}, {serves} serves now: retrain, or promote it by hand"
        return record_retrain(project.lake, replace(passed, state=HELD, why=why))
    if why := find_hindrance(project, passed.version, stage):
        return record_retrain(project.lake, replace(passed, released=f"waits: {why}"))
    told = release_step(project, passed.version, passed.reason, stage, met)
    return record_retrain(project.lake, replace(passed, state=RELEASED, released=told))


def release_waiting(project: Project) -> Retrain | None:
    """Release what passed last and still waits; None if nothing does. Trouble is told, and tried again."""
    passed = [
        one for one in read_retrains(project.lake) if one.state == PASSED and now() - one.asked_at >= AT_IT
    ]
    if not passed:
        return None
    *older, newest = sorted(passed, key=lambda one: (one.until, one.asked_at))
    for one in older:
        why = f"version {newest.version} passed later"
        record_retrain(project.lake, replace(one, state=HELD, why=why, released=""))
    # Whoever made it champion, or set it beside, has decided on it already.
    moves = [move for move in project.releases.moves() if move.after == newest.version]
    if moves:
        told = f"{moves[0].alias} {moves[0].how}, by {moves[0].who}"
        return record_retrain(project.lake, replace(newest, state=RELEASED, released=told))
    try:
        return release_judged(project, newest)
    except PerennialError as error:
        return record_retrain(project.lake, replace(newest, released=f"waits: {error}"))


@task(name="release-waiting", cache_policy=NO_CACHE)
def release_waiting_step(project: Project) -> str:
    """Release what waits as a step of a larger flow; return what came of it."""
    found = release_waiting(project)
    return f"version {found.version}: {found.released or found.why}" if found else "nothing waits"


def name_champion(project: Project) -> str:
    """Return the version that the alias names, or "none"."""
    return str(project.registry.aliases().get("champion") or "none")


@task(name="release", cache_policy=NO_CACHE)
def release_step(project: Project, version: int, reason: str, stage: Stage, met: str | None = None) -> str:
    """Release a version that the gate passed, held against the champion that it `met`; return how."""
    against = int(met) if met and met.isdecimal() else None
    rollout = release_passed(project, version, reason, stage=stage, met=against)
    return f"{stage}: {rollout.state}"
