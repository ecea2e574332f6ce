"""Rollouts: a version is set beside the champion in shadow or canary, then made the champion and watched.

What comes of it is for the looks to say (look.py).
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from feature_repo.errors import GateClosed, PerennialError
from flows.ingest import landed_until
from flows.project import Project
from flows.releasing.release import (
    make_champion,
    name_caller,
    override,
    reconcile_previous,
    require_promotable,
)
from flows.releasing.release_state import AUTOMATIC, BESIDE, BY_HAND, RELEASING, WATCHED, Rollout, now
from flows.releasing.watching import find_p95, read_latency
from services.routing import TERMS, Stage, Terms, parse_terms

SET_BY = "by"  # in the terms of a rollout: the person who set it beside the champion, or nothing


def release_passed(
    project: Project,
    version: int,
    reason: str,
    stage: Literal["full", "shadow", "canary"] = "full",
    met: int | None = None,
) -> Rollout:
    """Release a version that the gate passed: at once and under watch, or beside the champion first.

    Without a champion there is nothing to stand beside: it is promoted. Safe to repeat. Raises what
    `promote_version` raises, and GateClosed if another than `met` serves, which the gate held it against.
    """
    champion = project.registry.aliases().get("champion")
    if stage != "full" and champion is not None and champion != version:
        return challenge(project, version, reason, stage=stage, by_hand=False, met=met)
    return promote_and_watch(project, version, reason, met=met)


def find_hindrance(project: Project, version: int, stage: str) -> str:
    """Return what a release that nobody asked for by hand has to wait for, or nothing.

    What a person set beside the champion is not ended by it; nor is a watch by one that is to stand beside.
    """
    reconcile_previous(project)
    known = project.releases.current()
    if known is None or known.version == version:
        return ""
    if known.state == BESIDE and known.terms.get(SET_BY):
        return f"version {known.version}, which {known.terms[SET_BY]} set beside the champion, is under way"
    if known.state == WATCHED and stage != "full":
        return f"version {known.version} is watched, and would not be any more"
    return ""


def promote_and_watch(
    project: Project,
    version: int,
    reason: str,
    *,
    rollout: Rollout | None = None,
    met: int | None = None,
    readied: dict[str, Any] | None = None,
) -> Rollout:
    """Make a version the champion and watch it for its bake time. Safe to repeat.

    `rollout` is its own, if it stood beside the champion; `readied` is what `make_ready` said of it just now.
    Raises GateClosed if what serves, or what is under way, became another one meanwhile, or if what serves
    is not the champion that it `met`.
    """
    state = project.releases
    reconcile_previous(project)
    known = resume(project)
    if known and (known.version, known.state) == (version, WATCHED):
        return known
    seen = _see(project)
    if met is not None and seen[0] != version:
        _require_same(project, version, (met, seen[1]))
    terms = read_terms(project, version, rollout.terms if rollout else None)
    try:
        told = {**(readied or make_ready(project, version, terms)), **asdict(terms)}
    except PerennialError as error:
        tried = any((one.version, one.state) == (version, "stopped") for one in state.rollouts())
        if rollout is None and not tried:
            failed = state.open_rollout(version, seen[0], asdict(terms), RELEASING, [reason])
            state.end(failed, "stopped", [f"could not be promoted: {error}"])
        raise
    with state.hold():
        reconcile_previous(project)
        if rollout is None:
            _require_free(project, version, "full")
        own = rollout.id if rollout else None
        _require_same(project, version, (seen[0], own or seen[1]), but_ended=own is None)
        if rollout is None:
            released = state.open_rollout(version, seen[0], told, RELEASING, [reason])
            _move_to(project, released, reason)
        else:
            _move_to(project, rollout, reason)
            why = [*rollout.reasons, reason]
            released = state.change(
                rollout, state=WATCHED, since=now(), baseline=seen[0], terms=told, reasons=why
            )
        reconcile_previous(project)
        return state.rollout(released.id)


def make_ready(project: Project, version: int, terms: Terms) -> dict[str, Any]:
    """Return what a watch over a version begins with: its terms, the data's time, how answers take.

    Raises what `require_promotable` raises. It asks the monitors, which may take a while: not while holding.
    """
    require_promotable(project, version, by_hand=False)
    counts = read_latency(project.settings)
    latency = {"counts": counts, "p95_ms": find_p95(counts, {})}
    return {**asdict(terms), "from": read_data_time(project), "latency": latency}


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
    met: int | None = None,
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
        if not by_hand:
            _require_free(project, version, stage or "shadow")
        if met is not None:
            _require_same(project, version, (met, known.id if known else None))
        mine = known if known and (known.version, known.state) == (version, BESIDE) else None
        known_terms = read_terms(project, version, mine.terms) if mine else Terms()
        given = {"stage": stage, "share": share, "bake": bake}
        terms = Terms(**{**asdict(known_terms), **{k: v for k, v in given.items() if v is not None}})
        who = who or name_caller()
        registry.tag(version, TERMS, terms.to_text())
        # Whoever sets its terms by hand has made it theirs, whoever began it.
        hand = who if by_hand else mine.terms.get(SET_BY, "") if mine else ""
        if mine is None:
            told = {**asdict(terms), "from": read_data_time(project), SET_BY: hand}
            rollout = state.open_rollout(version, champion, told, BESIDE, [reason])
        elif terms == known_terms:
            rollout = state.change(mine, terms={**mine.terms, SET_BY: hand})
        else:
            rollout = _change_terms(project, mine, known_terms, terms, reason, hand)
        _set_challenger(project, version, reason, who, by_hand=by_hand, rollout=rollout)
        if known and not mine:
            override(project, known, f"{who} set version {version} beside the champion: {reason}")
    return rollout


def resume(project: Project) -> Rollout | None:
    """Return the rollout under way; watch what became the champion just before a kill."""
    with project.releases.hold():
        rollout = project.releases.current()
        if rollout is None or rollout.state == WATCHED:
            return rollout
        if project.registry.aliases().get("champion") != rollout.version:
            return rollout
        terms = {**rollout.terms, "from": read_data_time(project)}
        return project.releases.change(rollout, state=WATCHED, since=now(), terms=terms)


def read_terms(project: Project, version: int, known: Mapping[str, Any] | None = None) -> Terms:
    """Return the terms in a version's tag; if it cannot be read, those of the rollout, or the usual ones."""
    try:
        return parse_terms(project.registry.read_version_tag(version, TERMS))
    except (ValueError, TypeError):
        return parse_terms(json.dumps(known)) if known else Terms()


def read_data_time(project: Project) -> str:
    """Return the data's own time, as the terms of a rollout keep when a stage began."""
    return landed_until(project).isoformat()


def _move_to(project: Project, rollout: Rollout, reason: str) -> None:
    """Make a rollout's version the champion; what fails once the alias has moved is made up for later."""
    who = name_caller()
    try:
        make_champion(project, rollout.version, reason, by_hand=False, who=who, rollout=rollout.id)
    except PerennialError as error:
        if project.registry.aliases().get("champion") == rollout.version:
            return
        if rollout.state == RELEASING:
            project.releases.end(rollout, "stopped", [f"could not be promoted: {error}"])
        raise


def _see(project: Project) -> tuple[int | None, int | None]:
    """Return what serves, and the rollout under way."""
    current = project.releases.current()
    return project.registry.aliases().get("champion"), current.id if current else None


def _require_same(
    project: Project, version: int, seen: tuple[int | None, int | None], *, but_ended: bool = False
) -> None:
    """Raise GateClosed if another serves, or is under way; `but_ended`: what was may have come to its end."""
    found = _see(project)
    if found == seen or (but_ended and found == (seen[0], None)):
        return
    told, wanted = (f"champion {c or 'none'}, rollout {r or 'none'} under way" for c, r in (found, seen))
    raise GateClosed(
        f"release of version {version}, overtaken",
        got=told,
        expected=wanted,
        next_step="Look at `perennial history`; promote it by hand, or retrain.",
    )


def _require_free(project: Project, version: int, stage: str) -> None:
    """Raise GateClosed if a release by nobody's hand has to wait. To be called while holding."""
    if why := find_hindrance(project, version, stage):
        raise GateClosed(
            f"release of version {version}",
            got=why,
            expected="nothing in its way",
            next_step="It is released once that is over; `perennial promote` does not wait.",
        )


def _change_terms(
    project: Project, rollout: Rollout, old: Terms, new: Terms, reason: str, hand: str
) -> Rollout:
    told = f"{old.stage} at {old.share:.0%} became {new.stage} at {new.share:.0%}: {reason}"
    # Another stage or share is another experiment: days of before are not counted with those after.
    same = (old.stage, old.share) == (new.stage, new.share)
    begun = {"from": rollout.terms.get("from") if same else read_data_time(project)}
    fresh: dict[str, Any] = {} if same else {"since": now()}
    terms, reasons = {**asdict(new), **begun, SET_BY: hand}, [*rollout.reasons, told]
    return project.releases.change(rollout, terms=terms, reasons=reasons, **fresh)


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
