"""Rollouts: a version beside the champion in shadow or canary, then as the champion under watch.

Whatever a look decides, it decides of what it saw: if a person moved an alias meanwhile, the rollout is
over and nothing is moved.
"""

import time
from dataclasses import asdict
from typing import Any, Literal

from feature_repo.errors import GateClosed
from flows.project import Project
from flows.release import end_rollout, name_caller, promote_version, reconcile_previous
from flows.release_state import AUTOMATIC, BY_HAND, Rollout
from services.routing import TERMS, Stage, Terms, parse_terms

BESIDE, WATCHED = "beside", "watched"


def release_passed(
    project: Project, version: int, reason: str, stage: Literal["full", "shadow", "canary"] = "full"
) -> Rollout:
    """Release a version that the gate passed: at once and under watch, or beside the champion first.

    Without a champion there is nothing to stand beside: it is promoted. Safe to repeat. Raises what
    `promote_version` raises.
    """
    champion = project.registry.aliases().get("champion")
    if stage != "full" and champion is not None and champion != version:
        return challenge(project, version, reason, stage=stage, by_hand=False)
    known = project.releases.current()
    if known and (known.version, known.state) == (version, WATCHED):
        return known
    terms = parse_terms(project.registry.read_version_tag(version, TERMS))
    return promote_and_watch(project, version, reason, terms=terms)


def promote_and_watch(
    project: Project, version: int, reason: str, *, terms: Terms, rollout: Rollout | None = None
) -> Rollout:
    """Make a version the champion and watch it for its bake time."""
    state = project.releases
    reconcile_previous(project)
    before = project.registry.aliases().get("champion")
    if rollout is None:
        end_rollout(project, f"version {version} was released at once: {reason}")
        rollout = state.open_rollout(version, before, asdict(terms), "releasing", [reason])
    try:
        promote_version(project, version, reason, rollout=rollout.id)
    except Exception as error:
        state.end(rollout, "stopped", [f"could not be promoted: {error}"])
        raise
    from flows.release_state import now

    told = state.change(rollout, state=WATCHED, since=now())
    if before in (None, version):
        return state.end(told, "kept", ["nothing served before that it could be rolled back to"])
    return told


def challenge(
    project: Project,
    version: int,
    reason: str,
    *,
    stage: Stage | None = None,
    share: float | None = None,
    bake: float | None = None,
    by_hand: bool = True,
    who: str = "",
) -> Rollout:
    """Set a version beside the champion, or change the terms of one that stands there.

    What is not told stays as it is. Raises GateClosed if there is no such version or no champion, or if
    the gate did not pass it and nobody took it upon themselves.
    """
    registry, state = project.registry, project.releases
    with state.hold():
        reconcile_previous(project)
        champion = registry.aliases().get("champion")
        _require_challenger(project, version, champion, by_hand=by_hand)
        known = state.current()
        mine = known if known and (known.version, known.state) == (version, BESIDE) else None
        now = parse_terms(registry.read_version_tag(version, TERMS)) if mine else Terms()
        given = {"stage": stage, "share": share, "bake": bake}
        terms = Terms(**{**asdict(now), **{k: v for k, v in given.items() if v is not None}})
        who = who or name_caller()
        if known and not mine:
            end_rollout(project, f"{who} set version {version} beside the champion: {reason}")
        registry.tag(version, TERMS, terms.to_text())
        if mine is None:
            rollout = state.open_rollout(version, champion, asdict(terms), BESIDE, [reason])
        elif terms == now:
            rollout = mine
        else:
            rollout = _change_terms(project, mine, now, terms, reason)
        _set_challenger(project, version, reason, who, by_hand=by_hand, rollout=rollout)
    return rollout


def _change_terms(project: Project, rollout: Rollout, old: Terms, new: Terms, reason: str) -> Rollout:
    from flows.release_state import now

    told = f"{old.stage} at {old.share:.0%} became {new.stage} at {new.share:.0%}: {reason}"
    # Another stage or share is another experiment: days of before are not counted with those after.
    fresh: dict[str, Any] = {} if (old.stage, old.share) == (new.stage, new.share) else {"since": now()}
    return project.releases.change(rollout, terms=asdict(new), reasons=[*rollout.reasons, told], **fresh)


def _set_challenger(
    project: Project, version: int, reason: str, who: str, *, by_hand: bool, rollout: Rollout
) -> None:
    registry, state, began = project.registry, project.releases, time.monotonic()
    before = registry.aliases().get("challenger")
    if before == version:
        return
    how = BY_HAND if by_hand else AUTOMATIC
    move = state.begin("challenger", before, version, who=who, how=how, reason=reason, rollout=rollout.id)
    registry.set_alias("challenger", version)
    state.finish(move, time.monotonic() - began)


def _require_challenger(project: Project, version: int, champion: int | None, *, by_hand: bool) -> None:
    verdict = project.registry.read_version_tag(version, "perennial.gate")
    if not project.registry.has(version):
        got, expected = "no such version", "one that is registered"
    elif champion is None or champion == version:
        got, expected = f"champion {champion or 'none'}", "another version as the champion"
    elif verdict != "passed" and not by_hand:
        got, expected = f"gate verdict {verdict or 'none'}", "passed"
    else:
        return
    step = "Look at the versions in MLflow, and at `perennial history`."
    raise GateClosed(f"challenge by version {version}", got=got, expected=expected, next_step=step)
