"""The commands `perennial replay ...` and `perennial compact`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from feature_repo.errors import NotEnoughData

if TYPE_CHECKING:
    from flows.project import Project
    from flows.replay import Replay
    from services.journal import Prediction

replay_app = typer.Typer(no_args_is_help=True, help="Make an old answer or training set again, and compare.")
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
INSTANTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


@replay_app.command()
def dataset(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(help="A training run, as MLflow names it.")],
    as_json: AsJson = False,
) -> None:
    """Build a run's training set again from the lake; print both hashes. Exits 1 if they differ."""
    from flows.code_version import read_code_version
    from flows.project import open_project
    from flows.replay import replay_dataset
    from flows.retention import read_run_tags

    project = open_project(ctx.obj)
    told = replay_dataset(project, run_id, read_run_tags(project.settings.mlflow_url, run_id))
    now = read_code_version()
    if as_json:
        print(json.dumps({**asdict(told), "same": told.same, "code_now": now}, default=str))
    else:
        console.print(f"snapshot  {told.snapshot}, until {told.until:%Y-%m-%d %H:%MZ}, {told.rows:,} rows")
        console.print(
            f"recorded  {told.recorded}  by code {told.code}", soft_wrap=True, highlight=False, markup=False
        )
        console.print(
            f"rebuilt   {told.rebuilt}  by code {now}", soft_wrap=True, highlight=False, markup=False
        )
        console.print("the same" if told.same else "they differ")
    if not told.same:
        raise typer.Exit(1)


@replay_app.command()
def prediction(
    ctx: typer.Context,
    prediction_id: Annotated[str | None, typer.Argument(help="An answer, by its id.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many to pick if none is named.")] = 1,
    since: Annotated[datetime | None, typer.Option(formats=INSTANTS, help="Asked from then, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=INSTANTS, help="Asked before then, UTC.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make answers again from the lake and the model version. Exits 1 if one differs.

    A score is the same to the last bit of the float64 on this kind of machine with the locked packages.
    """
    from flows.project import open_project
    from flows.replay import Replayer
    from services.schemas import build_wire

    project = open_project(ctx.obj)
    chosen = _choose(project, prediction_id, sample, since, until)
    replayer = Replayer(project, build_wire(project.problem))
    told = [replayer.replay(one) for one in chosen]
    if as_json:
        print(json.dumps(_sum_up(told) if prediction_id is None else asdict(told[0]), default=str))
    else:
        _show(told, single=prediction_id is not None)
    if any(one.status == "different" for one in told):
        raise typer.Exit(1)


def compact(
    ctx: typer.Context,
    keep_days: Annotated[int, typer.Option(min=0, help="Answers of so many days stay replayable.")] = 90,
    grace_hours: Annotated[
        int, typer.Option(min=0, help="Younger files stay; 0 only if nothing else runs.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Make few large files of many small ones, and delete those that nothing needs any more."""
    from flows.progress import showing

    with showing("compact", ctx.obj.home):
        from flows.project import open_project
        from flows.retention import find_named_snapshots, keep_lake

        done = keep_lake(open_project(ctx.obj), find_named_snapshots, keep_days, grace_hours)
    if as_json:
        print(json.dumps(asdict(done)))
        return
    from rich.table import Table

    table = Table("table", "files before", "after", "MB freed", "versions kept")
    for one in done.tables:
        freed = f"{one.bytes_freed / 1e6:.1f}"
        table.add_row(one.table, str(one.files_before), str(one.files_after), freed, str(one.versions_kept))
    console.print(table)
    console.print(f"snapshots: {done.snapshots_kept} kept, {done.snapshots_dropped} dropped")
    if done.not_vacuumed:
        _say(done.not_vacuumed)


def _say(text: str) -> None:
    # What is told holds data: none of it is markup.
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _choose(
    project: "Project",
    prediction_id: str | None,
    sample: int,
    since: datetime | None,
    until: datetime | None,
) -> "list[Prediction]":
    from feature_repo.contract import Period

    if prediction_id is not None:
        found = project.journal.find_prediction(prediction_id)
        chosen = [found] if found else []
    else:
        ends = (since or datetime(1970, 1, 2)), (until or datetime(2100, 1, 1))  # noqa: DTZ001
        period = Period(*(end.replace(tzinfo=UTC) for end in ends))
        chosen = project.journal.sample_predictions(period, sample)
    if not chosen:
        raise NotEnoughData(
            f"prediction {prediction_id!r}" if prediction_id is not None else "predictions to sample",
            got="none",
            expected="one in the journal",
            next_step=f"Look into {project.settings.home / 'journal'}; ids are in every answer.",
        )
    return chosen


def _sum_up(told: "Sequence[Replay]") -> dict[str, Any]:
    counts = Counter(one.status for one in told)
    return {
        "replayed": len(told),
        **{name: counts[name] for name in ("exact", "explained", "different", "gone")},
        "not_exact": [asdict(one) for one in told if one.status != "exact"],
    }


def _show(told: "Sequence[Replay]", *, single: bool) -> None:
    from flows.replay import PROMISE

    for one in told:
        if single or one.status != "exact":
            console.print(
                f"{one.prediction_id}: {one.status}. {one.why}", soft_wrap=True, highlight=False, markup=False
            )
            console.print(f"  model version {one.model_version}, feature snapshot {one.snapshot}")
            _say(f"  score {one.score!r}, again {one.recomputed!r}")
            for name, (was, now) in one.differing.items():
                console.print(
                    f"  {name}: answered with {was!r}, the lake says {now!r}", soft_wrap=True, markup=False
                )
    counts = _sum_up(told)
    text = ", ".join(f"{counts[name]} {name}" for name in ("exact", "explained", "different", "gone"))
    console.print(f"{len(told)} replayed: {text} ({PROMISE})", soft_wrap=True)
