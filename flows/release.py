"""Release: MLflow aliases are the only switch, and `previous` follows whoever moved `champion`."""

from dataclasses import dataclass

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from feature_repo.errors import GateClosed
from flows.live_definitions import require_servable
from flows.monitors import require_monitors
from flows.project import Project, open_project

SEEN = "perennial.champion_seen"  # the champion that the system knew last, as a tag of the model


@dataclass(frozen=True)
class Move:
    """One move of the champion alias."""

    before: int | None
    after: int
    reason: str


def reconcile_previous(project: Project) -> None:
    """Make `previous` the version that served before, if a person moved `champion` meanwhile."""
    registry = project.registry
    champion, seen = registry.aliases().get("champion"), registry.read_tag(SEEN)
    if champion is None or seen == str(champion):
        return
    if seen:
        registry.set_alias("previous", int(seen))
    registry.write_tag(SEEN, str(champion))


def promote_version(
    project: Project, version: int, reason: str, *, by_hand: bool = False, way_back: bool = False
) -> Move:
    """Make a version the champion and the one before it `previous`. Safe to repeat.

    way_back  the version has served before and is wanted back: that waits for no monitor

    Raises GateClosed if the gate did not pass the version and nobody took it upon themselves,
    DefinitionChanged if its features are now computed otherwise than those that it was trained on, and
    MonitorsDown if a monitor that must be live is not, by hand or not.
    """
    registry = project.registry
    reconcile_previous(project)
    verdict = registry.read_version_tag(version, "perennial.gate")
    if verdict != "passed" and not by_hand:
        raise GateClosed(
            f"promotion of version {version}",
            got=f"gate verdict {verdict or 'none'}",
            expected="passed",
            next_step="Read the gate card in its MLflow run, or promote it by hand.",
        )
    require_servable(project, version)
    before = registry.aliases().get("champion")
    if before == version:
        return Move(before, version, "it is the champion already")
    if not way_back:
        require_monitors(project, version)
    # `previous` first: after a kill between the two, a way back exists and the old champion serves.
    if before is not None:
        registry.set_alias("previous", before)
    registry.set_alias("champion", version)
    registry.write_tag(SEEN, str(version))
    registry.tag(version, "perennial.promoted", reason)
    return Move(before, version, reason)


def roll_back(project: Project, reason: str) -> Move:
    """Make the previous version the champion again.

    Raises GateClosed if there is none.
    """
    reconcile_previous(project)
    aliases = project.registry.aliases()
    previous, champion = aliases.get("previous"), aliases.get("champion")
    if previous is None or previous == champion:
        raise GateClosed(
            f"roll-back of {project.problem.name}",
            got=f"previous {previous}, champion {champion}",
            expected="a previous version that differs",
            next_step="Promote a version by number.",
        )
    return promote_version(project, previous, reason, by_hand=True, way_back=True)


@task(name="release", cache_policy=NO_CACHE)
def release(project: Project, version: int, reason: str) -> Move:
    """Promote a version that the gate passed."""
    return promote_version(project, version, reason)


@flow(name="rollback")
def rollback(reason: str = "by hand") -> str:
    """Make the previous model version the champion again."""
    move = roll_back(open_project(), reason)
    return _tell(move)


@flow(name="promote")
def promote(version: int, reason: str = "by hand") -> str:
    """Make the given model version the champion, whatever the gate said of it."""
    move = promote_version(open_project(), version, reason, by_hand=True)
    return _tell(move)


def _tell(move: Move) -> str:
    from flows.summary import publish

    text = f"champion: version {move.before} -> version {move.after} ({move.reason})"
    publish("release", text, "What serves now")
    return text
