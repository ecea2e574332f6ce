"""Looks at the release under way: what is known of it, what follows, and that it is done.

Whatever a look decides, it decides of what it saw: if a person moved an alias meanwhile, the rollout is
over and nothing is moved.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.errors import PerennialError
from flows.policy.sequential import SequentialPolicy, compare
from flows.policy.signals import bound_share
from flows.policy.watch import WatchPolicy, judge_watch
from flows.project import Project
from flows.releasing.release import reconcile_previous, roll_back, withdraw
from flows.releasing.release_state import BESIDE, WATCHED, Rollout, now
from flows.releasing.rollout import SET_BY, make_ready, promote_and_watch, read_data_time, read_terms, resume
from flows.releasing.watching import count_challenged, count_days_asked, gather_days, gather_watch
from flows.summary import publish

CHALLENGE = SequentialPolicy()
BY = "the rollout's own look"  # who moved it, in the record


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
    rollout = resume(project) or judge_clicked(project) or watch_moved(project)
    if rollout is None or rollout.state not in {BESIDE, WATCHED}:
        return None
    action, reasons = judge_rollout(project, rollout, until)
    try:
        # Its monitors are asked before the lock: a way back waits for nothing.
        readied = _ready(project, rollout) if action == "promote" else {}
    except PerennialError as error:
        return Looked(rollout, "go on", (*reasons, f"cannot promote now: {error}"))
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
            return Looked(_act(project, rollout, action, reasons, readied), action, reasons)
        except PerennialError as error:
            return Looked(rollout, "go on", (*reasons, f"cannot {action} now: {error}"))


@task(name="rollout", cache_policy=NO_CACHE)
def look_at_rollout(project: Project, until: datetime) -> str:
    """Look as a step of a larger flow, and show what it came to."""
    found = look(project, until)
    if found is None:
        return "no release is under way"
    text = f"version {found.rollout.version}: {found.action} ({'; '.join(found.reasons)})"
    publish("rollout", text, "The release under way")
    return text


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
        begun = {"from": read_data_time(project), SET_BY: "somebody, in MLflow,"}
        terms = {**asdict(read_terms(project, challenger)), **begun}
        return state.open_rollout(challenger, champion, terms, BESIDE, ["set beside by hand, in MLflow"])


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
    # Days that landed in bulk, on which nobody asked, are none of the experiment.
    lasted = datetime.fromisoformat(now()) - datetime.fromisoformat(rollout.since)
    if lasted < allowed and count_days_asked(project, rollout, until) < CHALLENGE.max_days:
        return ""
    return f"no verdict in {CHALLENGE.max_days} days and the time that labels take"


def _ready(project: Project, rollout: Rollout) -> dict[str, Any]:
    return make_ready(project, rollout.version, read_terms(project, rollout.version, rollout.terms))


def _act(
    project: Project, rollout: Rollout, action: str, reasons: tuple[str, ...], readied: dict[str, Any]
) -> Rollout:
    state, why = project.releases, "; ".join(reasons)
    if action == "promote":
        return promote_and_watch(project, rollout.version, why, rollout=rollout, readied=readied)
    if action == "stop":
        withdraw(project, rollout.version, why, BY, rollout.id, by_hand=False)
        return state.end(rollout, "stopped", reasons)
    if action == "roll back":
        roll_back(project, why, by_hand=False, who=BY, rollout=rollout.id)
        return state.end(rollout, "rolled back", reasons)
    return state.end(rollout, "kept", reasons) if action == "keep" else rollout
