"""`perennial trace`: from an answer back to its source files, or from a batch forward to what it touched."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

if TYPE_CHECKING:
    from flows.feature_origins import FeatureRow, SourceRows
    from flows.touched_answers import TouchedAnswers
    from flows.trace import ModelOrigin, Trace
    from flows.trace_batch import BatchTrace

SHOWN_BATCHES = 5  # of one feature's rows
WIDE = 10_000  # characters


def trace(
    ctx: typer.Context,
    prediction_id: Annotated[str, typer.Argument(help="The `prediction_id` of an answer.")] = "",
    batch: Annotated[str, typer.Option(help="Go forward from this batch; its id may be cut short.")] = "",
    rows: Annotated[bool, typer.Option("--rows", help="Show the first source rows.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="List the ids of the answers touched.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Trace an answer to model, snapshot, features, rows and files; or a batch to all that it touched."""
    if bool(prediction_id) == bool(batch):
        raise typer.BadParameter("name a prediction, or a batch with --batch", param_hint="PREDICTION_ID")
    from flows.project import open_project
    from flows.trace import trace_prediction
    from flows.trace_batch import trace_batch

    project = open_project(ctx.obj)
    if batch:
        forward = trace_batch(project, batch, ids=ids)
        tree, told = draw_batch_trace(forward), asdict(forward)
    else:
        back = trace_prediction(project, prediction_id)
        tree, told = draw_trace(back, rows=rows), asdict(back)
    if as_json:
        print(json.dumps(_leave_out(told, () if rows else ("first_rows",)), indent=1, default=_encode))
    else:
        _print(tree)


def draw_trace(trace: "Trace", *, rows: bool = False) -> Tree:
    """Return an answer and what is behind it as a tree."""
    told = trace.prediction
    tree = Tree(
        f"[bold]prediction {escape(told.prediction_id)}[/]: {told.score:.6g} for {escape(told.entity)}"
    )
    tree.add(
        f"asked for {told.requested_at}, answered {told.received_at} by {told.served_by} ({told.reason})"
    )
    if trace.model:
        _draw_model(tree, trace.model)
    else:
        tree.add("no model version: answered by the prior")
    tree.add(f"from the request: {_pairs(trace.request_features)}")
    for row in trace.features:
        _draw_feature(tree, row, rows)
    return tree


def draw_batch_trace(trace: "BatchTrace") -> Tree:
    """Return a batch and what it touched as a tree."""
    batch = trace.batch
    tree = Tree(f"[bold]batch {escape(batch.batch_id)}[/]: {batch.status}, {batch.accepted:,} rows accepted")
    where = f", found in version {trace.found_version}" if trace.found_version is not None else ""
    tree.add(f"{batch.table}, known {_at(batch.since)} to {_at(batch.until)}{where}")
    for file in json.loads(batch.files or "[]"):
        tree.add(f"file {escape(file['name'])}, SHA-256 {file['sha256']}")
    for note in trace.notes:
        tree.add(f"[yellow]{escape(note)}[/]")
    features = tree.add(f"features: {sum(found.rows for found in trace.features):,} rows touched")
    for table in trace.features:
        span = f", ticks {_at(table.first_tick)} to {_at(table.last_tick)}" if table.rows else ""
        features.add(f"{table.table}: {table.rows:,} rows of {table.keys:,} keys{span}")
    models = tree.add(f"model versions: {len(trace.models)} trained on its rows")
    for model in trace.models:
        models.add(f"version {model.version}: {model.rows:,} of its rows, snapshot {model.snapshot}")
    answers = tree.add(f"answers: {trace.answers:,} touched")
    _draw_answers(answers.add("through their features"), trace.by_features)
    _draw_answers(answers.add("through their model version"), trace.by_model)
    return tree


def _print(tree: Tree) -> None:
    console = Console()
    # A tree is cut at the width of what it is printed to: hashes must be whole in a file or a pipe.
    console = console if console.is_terminal else Console(width=WIDE)
    console.print(tree, highlight=False)


def _draw_model(tree: Tree, model: "ModelOrigin") -> None:
    branch = tree.add(f"[bold]model version {model.version}[/]")
    if model.run_id:
        branch.add(f"MLflow run {model.run_name} ({model.run_id}) {model.run_url}")
    if model.snapshot:
        snapshot = branch.add(
            f"training snapshot {model.snapshot}, labels known before {model.trained_until}"
        )
        if model.table_versions:
            snapshot.add(f"table versions: {_pairs(model.table_versions)}")
        counts = (model.rows_fitted, model.rows_held_out)
        rows = f", {counts[0]:,} rows fitted and {counts[1]:,} held out" if None not in counts else ""
        snapshot.add(f"training set SHA-256 {model.training_set_sha256 or 'not recorded'}{rows}")
    for note in model.notes:
        branch.add(f"[yellow]{escape(note)}[/]")


def _draw_feature(tree: Tree, row: "FeatureRow", rows: bool) -> None:
    head = f"[bold]{row.table}[/] version {row.version} ({_pairs(row.keys)})"
    if row.tick is None:
        tree.add(f"{head}: [yellow]no row that may be used[/]; answered {_pairs(row.answered)}")
        return
    branch = tree.add(f"{head} tick {_at(row.tick)}, {row.age} before the decision")
    branch.add(_pairs(row.values))
    if not row.agrees:
        other = {name: value for name, value in row.answered.items() if value != row.values.get(name)}
        branch.add(f"[red]the answer used other values[/]: {_pairs(other)}")
    if not row.logged:
        branch.add(
            "[yellow]no log of what was online then: this is the row that fits, as the table is now[/]"
        )
    for source in row.sources:
        _draw_source(branch, source, rows)


def _draw_source(tree: Tree, source: "SourceRows", rows: bool) -> None:
    branch = tree.add(
        f"{source.rows:,} rows of {source.table} version {source.version}, {source.sha256[:12]}"
        + ("" if source.exact else "; as they are now: what it was computed from is no longer there")
    )
    for origin in source.batches[:SHOWN_BATCHES]:
        branch.add(f"batch {escape(origin.batch_id)}: {origin.rows:,} rows, {origin.status}")
    if len(source.batches) > SHOWN_BATCHES:
        branch.add(f"and {len(source.batches) - SHOWN_BATCHES:,} more batches; --json lists them all")
    files = {file["name"]: file["sha256"] for origin in source.batches for file in origin.files}
    for name, sha256 in files.items():
        branch.add(f"from {escape(name)}, SHA-256 {sha256}")
    for row in source.first_rows if rows else ():
        branch.add(_pairs(row))


def _draw_answers(tree: Tree, found: "Sequence[TouchedAnswers]") -> None:
    for answers in found:
        span = f"{_at(answers.first)} to {_at(answers.last)}"
        leaf = tree.add(f"version {answers.model_version or 'none'}: {answers.answers:,} answers, {span}")
        for one in answers.ids:
            leaf.add(one)
    if not found:
        tree.add("none")


def _pairs(values: Mapping[str, Any]) -> str:
    return escape(", ".join(f"{name} {value}" for name, value in values.items())) or "nothing"


def _at(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M}Z" if instant else "never"


def _leave_out(told: Any, names: Sequence[str]) -> Any:
    if isinstance(told, Mapping):
        return {key: _leave_out(value, names) for key, value in told.items() if key not in names}
    return [_leave_out(value, names) for value in told] if isinstance(told, list | tuple) else told


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
