"""What `--help` teaches beyond a list: which commands belong together, and examples of each."""

from collections.abc import Iterator

import typer

Named = typer.models.CommandInfo | typer.models.TyperInfo
RUN, DATA, MODELS, LOOK = "Run it", "Data and features", "Models", "Look and ask"
PANELS = {
    RUN: ("demo", "up", "down", "replicas", "monitoring", "drill"),
    DATA: (
        "backfill",
        "ingest",
        "restate",
        "backfill-features",
        "features",
        "quality",
        "outcomes",
        "quarantine",
        "compact",
    ),
    MODELS: (
        "train",
        "promote",
        "rollback",
        "history",
        "challenge",
        "rollout",
        "propose",
        "approve",
        "backtest",
    ),
    LOOK: ("status", "doctor", "example", "trace", "replay", "dead-letters"),
}
# One or more a command, as they are typed after `perennial`.
EXAMPLES = {
    "demo": ("demo",),
    "up": ("up",),
    "down": ("down",),
    "status": ("status", "status --once", "status --json"),
    "doctor": ("doctor", "doctor --machine", "doctor --at-least 5"),
    "example": ("example",),
    "backfill": ("backfill 2013-01-01 2013-03-01",),
    "ingest": ("ingest", "ingest --hours 24"),
    "train": ("train --until 2013-03-01", "train --reason 'a new feature'"),
    "promote": ("promote 3 --reason 'it is the better one'",),
    "rollback": ("rollback --reason 'complaints'",),
    "history": ("history", "history --at 2026-03-01T12:00"),
    "challenge": ("challenge 4 --stage canary --share 0.1", "challenge 4 --bake 7"),
    "rollout": ("rollout", "rollout --act"),
    "propose": ("propose 4 --reason 'better on the newest weeks'",),
    "approve": ("approve", "approve RUN_ID --version 4 --reason 'I read its card'"),
    "backtest": (
        "backtest --since 2013-03-01 --until 2013-06-01",
        "backtest --policies never,weekly,combined --jobs 2",
    ),
    "drill": ("drill", "drill --only skew"),
    "outcomes": ("outcomes",),
    "restate": ("restate 2013-02-01 2013-02-08",),
    "backfill-features": (
        "backfill-features airport_daily",
        "backfill-features airport_daily --since 2013-02-01",
    ),
    "features": ("features",),
    "quality": ("quality",),
    "compact": ("compact",),
    "trace": ("trace PREDICTION_ID", "trace --batch BATCH_ID"),
    "replay prediction": ("replay prediction PREDICTION_ID",),
    "replay dataset": ("replay dataset RUN_ID",),
    "quarantine list": ("quarantine list",),
    "quarantine show": ("quarantine show ROW_ID",),
    "quarantine readmit": (
        "quarantine readmit ROW_ID --set distance=187 --reason 'the source dropped a digit'",
        "quarantine readmit ROW_ID --waive --reason 'a new airline'",
    ),
    "dead-letters list": ("dead-letters list",),
    "dead-letters sample": ("dead-letters sample",),
    "dead-letters count": ("dead-letters count",),
    "dead-letters show": ("dead-letters show 17",),
    "dead-letters replay": ("dead-letters replay --since 2026-03-01", "dead-letters replay 17 18"),
    "replicas up": ("replicas up --count 3",),
    "replicas restart": ("replicas restart",),
    "replicas status": ("replicas status",),
    "replicas down": ("replicas down",),
    "monitoring up": ("monitoring up",),
    "monitoring status": ("monitoring status",),
    "monitoring down": ("monitoring down",),
}


def teach(app: typer.Typer) -> None:
    """Put each command into its panel, and examples under the help of each that has some."""
    for panel, names in PANELS.items():
        known: list[Named] = [*app.registered_commands, *app.registered_groups]
        for one in known:
            if _name(one) in names:
                one.rich_help_panel = panel
    for name, command in list_commands(app):
        if shown := EXAMPLES.get(name):
            lines = [f"[bold]perennial {words}[/]" for words in shown]
            command.epilog = "\n\n".join(["Examples:", *lines] if lines[1:] else ["Example:", *lines])


def list_commands(app: typer.Typer, before: str = "") -> Iterator[tuple[str, typer.models.CommandInfo]]:
    """Yield every command with its whole name, those of groups after their group's."""
    for command in app.registered_commands:
        yield f"{before}{_name(command)}", command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from list_commands(group.typer_instance, f"{before}{_name(group)} ")


def _name(one: Named) -> str:
    if one.name and isinstance(one.name, str):
        return one.name
    callback = getattr(one, "callback", None)
    return callback.__name__.replace("_", "-") if callback else ""
