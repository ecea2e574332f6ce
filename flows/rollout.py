"""Rollouts: a version beside the champion in shadow or canary, then as the champion under watch.

Whatever a look decides, it decides of what it saw: if a person moved an alias meanwhile, the rollout is
over and nothing is moved.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.errors import GateClosed, PerennialError
from flows.ingest import landed_until
from flows.policy.sequential import SequentialPolicy, compare
from flows.policy.signals import bound_share
from flows.policy.watch import WatchPolicy, judge_watch
from flows.project import Project
from flows.release import (
    make_champion,
    name_caller,
    override,
    reconcile_previous,
    require_promotable,
    roll_back,
    withdraw,
)
from flows.release_state import AUTOMATIC, BESIDE, BY_HAND, RELEASING, WATCHED, Rollout, now
from flows.summary import publish
from flows.watching import count_challenged, find_p95, gather_days, gather_watch, read_latency
from services.routing import TERMS, Stage, Terms, parse_terms

CHALLENGE = SequentialPolicy()
LOOK = "the rollout's own look"  # who moved it, in the record


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
    terms = read_terms(project, version)
    return promote_and_watch(project, version, reason, terms=terms, met=met)


def promote_and_watch(
    project: Project,
    version: int,
    reason: str,
    *,
    terms: Terms,
    rollout: Rollout | None = None,
    met: int | None = None,
) -> Rollout:
    """Make a version the champion and watch it for its bake time. Safe to repeat.

    Raises GateClosed if what serves, or what is under way, became another one meanwhile, or if what serves
    is not the champion that it `met`.
    """
    state = project.releases
    reconcile_previous(project)
    known = _resume(project)
    if known and (known.version, known.state) == (version, WATCHED):
        return known
    seen = _see(project)
    if met is not None and seen[0] != version:
        _require_same(project, version, (met, seen[1]))
    told = {**asdict(terms), "from": read_data_time(project)}
    try:
        require_promotable(project, version, by_hand=False)
    except PerennialError as error:
        if rollout is None:
            failed = state.open_rollout(version, seen[0], told, RELEASING, [reason])
            state.end(failed, "stopped", [f"could not be promoted: {error}"])
        raise
    counts = read_latency(project.settings)
    told["latency"] = {"counts": counts, "p95_ms": find_p95(counts, {})}
    with state.hold():
        reconcile_previous(project)
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
        if met is not None:
            _require_same(project, version, (met, known.id if known else None))
        mine = known if known and (known.version, known.state) == (version, BESIDE) else None
        known_terms = read_terms(project, version, mine.terms) if mine else Terms()
        given = {"stage": stage, "share": share, "bake": bake}
        terms = Terms(**{**asdict(known_terms), **{k: v for k, v in given.items() if v is not None}})
        who = who or name_caller()
        registry.tag(version, TERMS, terms.to_text())
        if mine is None:
            told = {**asdict(terms), "from": read_data_time(project)}
            rollout = state.open_rollout(version, champion, told, BESIDE, [reason])
        elif terms == known_terms:
            rollout = mine
        else:
            rollout = _change_terms(project, mine, known_terms, terms, reason)
        _set_challenger(project, version, reason, who, by_hand=by_hand, rollout=rollout)
        if known and not mine:
            override(project, known, f"{who} set version {version} beside the champion: {reason}")
    return rollout


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a rollout came to: "promote", "stop", "roll back", "keep", "go on" or "overtaken"."""

    rollout: Rollout
    action: str
    reasons: tuple[str, ...]


def look(project: Project, until: datetime) -> Looked | None:
    """Judge the rollout under way by what is known at `until`, and do what follows; None if there is none.

    Looking again changes nothing, and a look never overrides a person: but for a version that nobody had
    seen serve before, which is watched whoever made it the champion.
    """
    reconcile_previous(project)
    rollout = _resume(project) or judge_clicked(project) or watch_moved(project)
    if rollout is None or rollout.state not in {BESIDE, WATCHED}:
        return None
    action, reasons = judge_rollout(project, rollout, until)
    with project.releases.hold():
        reconcile_previous(project)
        known = project.releases.current()
        if known is None or (known.id, known.state, known.since) != (
            rollout.id,
            rollout.state,
            rollout.since,
        ):
            return Looked(known or rollout, "overtaken", ("somebody moved an alias meanwhile",))
        try:
            return Looked(_act(project, rollout, action, reasons), action, reasons)
        except PerennialError as error:
            return Looked(rollout, "go on", (*reasons, f"cannot {action} now: {error}"))


def watch_moved(project: Project) -> Rollout | None:
    """Watch the champion if a person has made it that, past the gate, and it had never served; else None.

    One that is made champion again after it was rolled back has served: a person's second word holds.
    """
    state = project.releases
    with state.hold():
        moves = [move for move in state.moves() if move.alias == "champion"]
        if not moves or moves[-1].rollout is not None or state.current():
            return None
        last, version = moves[-1], moves[-1].after
        baseline = last.before or project.registry.aliases().get("previous")
        served = {move.before for move in moves} | {move.after for move in moves[:-1]}
        watched = any(r.version == version and r.opened_at >= last.at for r in state.rollouts())
        if version is None or baseline is None or version in served or watched:
            return None
        terms = {**asdict(read_terms(project, version)), "from": read_data_time(project)}
        opened = state.open_rollout(version, baseline, terms, WATCHED, [last.reason])
        # A record is never earlier than the one before it, the clock that stamps answers may be.
        return state.change(opened, since=min(last.at, now()))


def judge_clicked(project: Project) -> Rollout | None:
    """Open the rollout of a challenger that a person set in MLflow, by the terms in its tag; else None."""
    state = project.releases
    with state.hold():
        aliases = project.registry.aliases()
        champion, challenger = aliases.get("champion"), aliases.get("challenger")
        if state.current() or champion is None or challenger is None or challenger == champion:
            return None
        terms = {**asdict(read_terms(project, challenger)), "from": read_data_time(project)}
        return state.open_rollout(challenger, champion, terms, BESIDE, ["set beside by hand, in MLflow"])


@task(name="rollout", cache_policy=NO_CACHE)
def look_at_rollout(project: Project, until: datetime) -> str:
    """Look as a step of a larger flow, and show what it came to."""
    found = look(project, until)
    if found is None:
        return "no release is under way"
    text = f"version {found.rollout.version}: {found.action} ({'; '.join(found.reasons)})"
    publish("rollout", text, "The release under way")
    return text


def _resume(project: Project) -> Rollout | None:
    """Return the rollout under way; watch what became the champion just before a kill."""
    with project.releases.hold():
        rollout = project.releases.current()
        if rollout is None or rollout.state == WATCHED:
            return rollout
        if project.registry.aliases().get("champion") != rollout.version:
            return rollout
        terms = {**rollout.terms, "from": read_data_time(project)}
        return project.releases.change(rollout, state=WATCHED, since=now(), terms=terms)


def judge_rollout(project: Project, rollout: Rollout, until: datetime) -> tuple[str, tuple[str, ...]]:
    """Return what is to be done with a rollout, and why; nothing is done."""
    if rollout.state == BESIDE:
        if why := _find_failure(project, rollout, until):
            return "stop", (why,)
        found = compare(*gather_days(project, rollout, until), CHALLENGE)
        gate = project.registry.read_version_tag(rollout.version, "perennial.gate")
        if found.action == "promote" and gate != "passed":  # a person set it beside
            return "stop", ("the gate did not pass it: surely better; promote it by hand", *found.reasons)
        if found.action == "go on" and (late := _find_lateness(project, rollout, until)):
            return "stop", (late, *found.reasons)
        return found.action, found.reasons
    verdict = judge_watch(gather_watch(project, rollout, until), float(rollout.terms["bake"]))
    return verdict.action, verdict.reasons


def _find_failure(project: Project, rollout: Rollout, until: datetime) -> str:
    """Return why a canary's challenger cannot go on answering, or nothing."""
    if rollout.terms["stage"] != "canary":
        return ""
    failed, minutes, drawn = count_challenged(project, rollout, until)
    policy = WatchPolicy()
    few = drawn < policy.least or minutes < policy.minutes
    if few or bound_share(failed, drawn, policy.alpha) <= policy.failed:
        return ""
    return f"errors: the challenger failed on {failed} of {drawn}, {policy.failed:.0%} allowed"


def _find_lateness(project: Project, rollout: Rollout, until: datetime) -> str:
    """Return that the days ran out, told by the data's own time: days without a verdict count too."""
    allowed = timedelta(days=CHALLENGE.max_days) + project.problem.horizon
    begun = rollout.terms.get("from")
    if begun is None or until - datetime.fromisoformat(begun) < allowed:
        return ""
    return f"no verdict in {CHALLENGE.max_days} days and the time that labels take"


def read_data_time(project: Project) -> str:
    """Return the data's own time, as the terms of a rollout keep when a stage began."""
    return landed_until(project).isoformat()


def _act(project: Project, rollout: Rollout, action: str, reasons: tuple[str, ...]) -> Rollout:
    state, why = project.releases, "; ".join(reasons)
    if action == "promote":
        terms = read_terms(project, rollout.version, rollout.terms)
        return promote_and_watch(project, rollout.version, why, terms=terms, rollout=rollout)
    if action == "stop":
        withdraw(project, rollout.version, why, LOOK, rollout.id, by_hand=False)
        return state.end(rollout, "stopped", reasons)
    if action == "roll back":
        roll_back(project, why, by_hand=False, who=LOOK, rollout=rollout.id)
        return state.end(rollout, "rolled back", reasons)
    return state.end(rollout, "kept", reasons) if action == "keep" else rollout


def _change_terms(project: Project, rollout: Rollout, old: Terms, new: Terms, reason: str) -> Rollout:
    told = f"{old.stage} at {old.share:.0%} became {new.stage} at {new.share:.0%}: {reason}"
    # Another stage or share is another experiment: days of before are not counted with those after.
    same = (old.stage, old.share) == (new.stage, new.share)
    begun = {"from": rollout.terms.get("from") if same else read_data_time(project)}
    fresh: dict[str, Any] = {} if same else {"since": now()}
    terms, reasons = {**asdict(new), **begun}, [*rollout.reasons, told]
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


def read_terms(project: Project, version: int, known: Mapping[str, Any] | None = None) -> Terms:
    """Return the terms in a version's tag; if it cannot be read, those of the rollout, or the usual ones."""
    try:
        return parse_terms(project.registry.read_version_tag(version, TERMS))
    except (ValueError, TypeError):
        return parse_terms(json.dumps(known)) if known else Terms()


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
