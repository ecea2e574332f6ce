"""Release: MLflow aliases are the only switch; whoever moves one, `previous` and the record follow."""

import getpass
import logging
import sys
import time
from dataclasses import dataclass

from prefect import flow

from feature_repo.errors import GateClosed, PerennialError
from flows.live_definitions import require_servable
from flows.monitors import require_monitors
from flows.project import Project, open_project
from flows.releasing.release_state import AUTOMATIC, BESIDE, BY_HAND, RELEASING, WATCHED, Rollout

SEEN = "perennial.champion_seen"  # the champion that the system knew last, as a tag of the model
log = logging.getLogger("perennial.release")


@dataclass(frozen=True)
class Move:
    """One move of the champion alias."""

    before: int | None
    after: int
    reason: str


def reconcile_previous(project: Project) -> None:
    """Make `previous` and the record true, if a person moved an alias meanwhile. Safe to repeat."""
    with project.releases.hold():
        _reconcile(project)


def _reconcile(project: Project) -> None:
    registry, state = project.registry, project.releases
    for alias in ("champion", "challenger"):
        named, last = registry.aliases().get(alias), state.last(alias)
        ours = state.settle(alias, named)
        if not ours and named != last:
            state.note(alias, last, named, f"noticed: {alias} was {last or 'none'}")
            end_rollout(
                project, f"somebody moved {alias} from {last or 'none'} to {named or 'none'} in MLflow"
            )
    champion, seen = registry.aliases().get("champion"), registry.read_tag(SEEN)
    if champion is not None and seen != str(champion):
        if seen and registry.has(int(seen)):
            registry.set_alias("previous", int(seen))
        registry.write_tag(SEEN, str(champion))
    settle_rollouts(project)


def settle_rollouts(project: Project) -> None:
    """Make the rollouts true to the aliases: at most one is under way, and its alias is there.

    What a kill or a failure left in the midst of a move is finished, or is over. To be called while holding.
    """
    state, aliases = project.releases, project.registry.aliases()
    champion = aliases.get("champion")
    for rollout in state.open_rollouts():
        _settle(project, rollout, champion, aliases.get("challenger"))
    *overtaken, current = [None, *state.open_rollouts()]
    for rollout in filter(None, overtaken):
        override(project, rollout, f"version {current.version if current else 'none'} took its place")
    if champion is not None and champion == project.registry.aliases().get("challenger"):
        own = current.id if current and current.version == champion else None
        withdraw(project, champion, "it is the champion now", "reconciling", own, by_hand=False)


def _settle(project: Project, rollout: Rollout, champion: int | None, challenger: int | None) -> None:
    state, serves = project.releases, rollout.version == champion
    last = [move for move in state.moves() if move.alias == "champion"][-1:]
    ours = bool(last) and last[0].rollout == rollout.id
    if rollout.state == RELEASING and not serves:
        state.end(rollout, "stopped", ["it did not become the champion"])
    elif rollout.state == RELEASING and rollout.baseline in {None, champion}:
        state.end(rollout, "kept", ["nothing served before that it could be rolled back to"])
    elif rollout.state == RELEASING:
        state.change(rollout, state=WATCHED)
    elif rollout.state == WATCHED and not serves:
        state.end(rollout, "rolled back" if ours else "overridden", [move.reason for move in last])
    elif rollout.state == BESIDE and rollout.baseline != champion and not (serves and ours):
        override(project, rollout, f"version {champion or 'none'} became the champion")
    elif rollout.state == BESIDE and not serves and rollout.version != challenger:
        state.end(rollout, "stopped", ["it stands beside the champion no more"])


def end_rollout(project: Project, why: str) -> None:
    """End the rollout that is under way, which somebody overtook; no canary goes on without one."""
    with project.releases.hold():
        rollout = project.releases.current()
        if rollout is not None:
            override(project, rollout, why)


def override(project: Project, rollout: Rollout, why: str) -> None:
    """End a rollout that another took the place of, and its canary. To be called while holding."""
    beside = project.registry.aliases().get("challenger") == rollout.version
    if rollout.state == BESIDE and beside:
        withdraw(project, rollout.version, why, "the end of its rollout", rollout.id, by_hand=False)
    project.releases.end(rollout, "overridden", [why])


def promote_version(
    project: Project, version: int, reason: str, *, by_hand: bool = False, who: str = ""
) -> Move:
    """Make a version the champion and the one before it `previous`. Safe to repeat.

    `who` wants it; whoever runs this process, if it is not told. Raises what `require_promotable` raises.
    """
    reconcile_previous(project)
    require_promotable(project, version, by_hand=by_hand)
    with project.releases.hold():
        _reconcile(project)
        return make_champion(project, version, reason, by_hand=by_hand, who=who or name_caller())


def require_promotable(project: Project, version: int, *, by_hand: bool) -> None:
    """Raise if a version may not become the champion.

    Raises GateClosed if the gate did not pass the version and nobody took it upon themselves,
    DefinitionChanged if its features are now computed otherwise than those that it was trained on, and
    MonitorsDown if a monitor that must be live is not, by hand or not.
    """
    _require_passed(project, version, by_hand=by_hand)
    require_servable(project, version)
    if project.registry.aliases().get("champion") != version:
        require_monitors(project, version)


def make_champion(
    project: Project, version: int, reason: str, *, by_hand: bool, who: str, rollout: int | None = None
) -> Move:
    """Move the champion's alias, then end any rollout but the move's own. To be called while holding."""
    registry, current = project.registry, project.releases.current()
    before = registry.aliases().get("champion")
    if before == version:
        return Move(before, version, "it is the champion already")
    move_champion(project, before, version, reason, by_hand=by_hand, who=who, rollout=rollout)
    try:
        registry.write_tag(SEEN, str(version))
        # Only now: had the move failed, what was under way would have to go on.
        if current and current.id != rollout:
            end_rollout(project, f"{who} made version {version} the champion: {reason}")
        if registry.aliases().get("challenger") == version:
            withdraw(project, version, "it is the champion now", who, rollout, by_hand=by_hand)
        registry.tag(version, "perennial.promoted", reason)
    except PerennialError as error:
        log.warning("version %s serves; the next command does what is left to do: %s", version, error)
    return Move(before, version, reason)


def move_champion(
    project: Project,
    before: int | None,
    after: int,
    reason: str,
    *,
    by_hand: bool,
    who: str,
    rollout: int | None,
) -> None:
    """Move the alias, and the record with it. To be called while holding."""
    registry, state, began = project.registry, project.releases, time.monotonic()
    how = BY_HAND if by_hand else AUTOMATIC
    move = state.begin("champion", before, after, who=who, how=how, reason=reason, rollout=rollout)
    # `previous` first: after a kill between the two, a way back exists and the old champion serves.
    if before is not None and registry.has(before):
        registry.set_alias("previous", before)
    registry.set_alias("champion", after)
    state.finish(move, time.monotonic() - began)


def withdraw(
    project: Project, version: int, reason: str, who: str, rollout: int | None, *, by_hand: bool
) -> None:
    """Take the challenger's alias away. To be called while holding."""
    state, began = project.releases, time.monotonic()
    how = BY_HAND if by_hand else AUTOMATIC
    move = state.begin("challenger", version, None, who=who, how=how, reason=reason, rollout=rollout)
    project.registry.delete_alias("challenger")
    state.finish(move, time.monotonic() - began)


def roll_back(
    project: Project, reason: str, *, by_hand: bool = True, who: str = "", rollout: int | None = None
) -> Move:
    """Make the version that served before the champion again: `previous`, else the last one that is left.

    Raises GateClosed if there is none.
    """
    reconcile_previous(project)
    aliases = project.registry.aliases()
    champion = aliases.get("champion")
    way_back = _find_way_back(project, champion, aliases.get("previous"))
    if way_back is None:
        raise GateClosed(
            f"roll-back of {project.problem.name}",
            got=f"previous {aliases.get('previous')}, champion {champion}",
            expected="a previous version that differs",
            next_step="Promote a version by number.",
        )
    # The version has served before: what the gate says of it now does not matter.
    return _go_back(project, way_back, reason, by_hand=by_hand, who=who, rollout=rollout)


def _go_back(
    project: Project, version: int, reason: str, *, by_hand: bool, who: str, rollout: int | None
) -> Move:
    require_servable(project, version)
    with project.releases.hold():
        _reconcile(project)
        who = who or name_caller()
        return make_champion(project, version, reason, by_hand=by_hand, who=who, rollout=rollout)


def _find_way_back(project: Project, champion: int | None, previous: int | None) -> int | None:
    """Return the newest version that served; one that was rolled back only if no other is left.

    Unless it was made champion again after its roll-back: whoever did that meant it.
    """
    state = project.releases
    moves = [move for move in state.moves() if move.alias == "champion"]
    back = {(rollout.id, rollout.version) for rollout in state.rollouts() if rollout.state == "rolled back"}
    bad: list[int | None] = []
    for move in moves:
        if (move.rollout, move.before) in back:
            bad.append(move.before)
        bad = [version for version in bad if version != move.after]
    served = [version for move in reversed(moves) for version in (move.after, move.before)]
    left = [version for version in (previous, *served) if version not in bad]
    for version in dict.fromkeys((*left, *bad)):
        if version is not None and version != champion and project.registry.has(version):
            return version
    return None


def _require_passed(project: Project, version: int, *, by_hand: bool) -> None:
    if not project.registry.has(version):
        got, expected, step = "no such version", "one that is registered", "Look at the versions in MLflow."
    else:
        verdict = project.registry.read_version_tag(version, "perennial.gate")
        if verdict == "passed" or by_hand:
            return
        got, expected = f"gate verdict {verdict or 'none'}", "passed"
        step = "Read the gate card in its MLflow run, or promote it by hand."
    raise GateClosed(f"promotion of version {version}", got=got, expected=expected, next_step=step)


def name_caller() -> str:
    """Return who runs this: a Prefect run by its name, else the user of this machine."""
    if "prefect.runtime" in sys.modules:
        from prefect.runtime import flow_run

        if flow_run.id:
            return f"Prefect run {flow_run.name}"
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


@flow(name="rollback")
def rollback(reason: str = "by hand") -> str:
    """Make the previous model version the champion again."""
    return show_move(roll_back(open_project(), reason))


@flow(name="promote")
def promote(version: int, reason: str = "by hand") -> str:
    """Make the given model version the champion, whatever the gate said of it."""
    return show_move(promote_version(open_project(), version, reason, by_hand=True))


def show_move(move: Move) -> str:
    """Return a move in words, and show them beside the run."""
    from flows.summary import publish

    text = f"champion: version {move.before} -> version {move.after} ({move.reason})"
    publish("release", text, "What serves now")
    return text
