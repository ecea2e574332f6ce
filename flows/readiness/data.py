"""The seven tests of features and data."""

from flows.policy.readiness import Finding
from flows.readiness.lookups import Question, deployed, passed
from flows.readiness.records import ROOT
from flows.readiness.sources import Sources

COST_MS = 1_000.0  # of one tick of a feature table: an hour's features in a second leave room for a backfill


def find_batches(sources: Sources) -> Finding:
    """Every raw table landed through its rules, and what was measured then was kept."""
    known, tables = sources.manifests, [table.name for table in sources.project.problem.raw]
    landed = known.filter(known["status"] == "landed") if len(known) else known
    lacking = [name for name in tables if not len(landed) or name not in landed["table"].to_list()]
    if lacking:
        return Finding(False, f"nothing landed of {', '.join(lacking)}", "", "Run `perennial backfill`.")
    until = str(landed["until"].max())[:16]
    told = f"{len(landed)} batches of {len(tables)} tables judged by their rules, until {until}"
    return Finding(True, told, ".venv/bin/perennial quality")


def find_contract(sources: Sources) -> Finding:
    """The champion's contract says of each input what it may be."""
    told = sources.contract["features"]
    bad = [f["name"] for f in told if f["kind"] == "category" and not f["categories"]]
    bad += [f["name"] for f in told if f["kind"] == "number" and f["min"] is None]
    if bad:
        return Finding(False, f"no range or categories of {', '.join(bad)}", "", "Train on more data.")
    told_of = f"contract of version {sources.champion}: range or categories of {len(told)} inputs"
    return Finding(True, told_of, str(sources.package / "contract.json"))


def find_benefit(sources: Sources) -> Finding:
    """No feature is unused or of no importance to the model that serves."""
    _ = sources.champion
    idle = [one.name for one in sources.features if one.unused or one.dead]
    if idle:
        shown = ", ".join(idle[:5]) + (" ..." if len(idle) > 5 else "")
        told = f"{len(idle)} of {len(sources.features)} features are unused or dead: {shown}"
        return Finding(False, told, "", "Read .venv/bin/perennial features; drop them in a new version.")
    return Finding(True, f"all {len(sources.features)} features are used", ".venv/bin/perennial features")


def find_importance(sources: Sources) -> Finding:
    """The importance of each input is measured at each training."""
    told = {f["name"]: f["importance"] for f in sources.contract["features"]}
    best = max(told, key=lambda name: told[name])
    found = f"importance of {len(told)} inputs measured; the most: {best}, {told[best]:.4f} of AUC"
    return Finding(any(told.values()), found, sources.name_artifact(sources.champion, "importance.json"))


def find_cost(sources: Sources) -> Finding:
    """The cost of each stored feature is measured, and within its limit."""
    cost = {one.table: one.cost_ms for one in sources.features if one.table != "request"}
    unknown = sorted(name for name, ms in cost.items() if ms is None)
    dear = sorted(name for name, ms in cost.items() if ms is not None and ms > COST_MS)
    if unknown or dear or not cost:
        found = f"not measured: {unknown}; over {COST_MS:.0f} ms a tick: {dear}"
        return Finding(False, found, "", "Run `perennial backfill`; then look at `perennial features`.")
    most = max(cost, key=lambda name: cost[name] or 0.0)
    told = f"{len(cost)} tables measured just now; the dearest, {most}: {cost[most]:.1f} ms a tick"
    return Finding(True, told, ".venv/bin/perennial features")


def find_descriptions(sources: Sources) -> Finding:
    """Each feature has an owner, a meaning and a limit of age."""
    bad = [one.name for one in sources.features if not (one.owner and one.meaning and one.fresh_for)]
    if bad:
        return Finding(
            False, f"no owner, meaning or limit of {', '.join(bad)}", "", "State it in problem.py."
        )
    told = f"owner, meaning and limit of age of {len(sources.features)} features"
    return Finding(True, told, ".venv/bin/perennial features")


def find_definitions(sources: Sources) -> Finding:
    """What the champion takes is defined as when it was trained."""
    from flows.live_definitions import require_servable

    require_servable(sources.project, sources.champion)
    told = f"the inputs of version {sources.champion} are defined as they were when it was trained"
    return Finding(True, told, sources.name_version(sources.champion))


def find_columns_kept(sources: Sources) -> Finding:
    """The lake holds no column of the source that the problem does not state."""
    if not len(sources.manifests):
        return Finding(False, "nothing has landed", "", "Run `perennial backfill`.")
    surplus = []
    for table in sources.project.problem.raw:
        stated = {*table.schema, "batch_id"}
        surplus += [
            f"{table.name}.{name}" for name in sources.table(table.name).columns if name not in stated
        ]
    if surplus:
        return Finding(False, f"not stated: {', '.join(surplus)}", "", "State them, or keep them out.")
    told = f"{len(sources.project.problem.raw)} raw tables hold the stated columns alone"
    return Finding(True, told, str(ROOT / "feature_repo" / "problem.py"))


def find_reach(sources: Sources) -> Finding:
    """What holds data listens on this machine alone, unless somebody said otherwise."""
    host = sources.settings.host
    near = host in ("127.0.0.1", "::1", "localhost")
    advice = "Unset PERENNIAL_HOST, or put something that asks who is there before it."
    return Finding(near, f"everything listens on {host}", ".venv/bin/perennial status", advice)


def find_feature_tests(sources: Sources) -> Finding:
    """Each feature table's computation has a test of its own that passed."""
    names = [table.name for table in sources.project.problem.feature_tables]
    test = "tests/unit/test_transforms.py::test_what_comes_later_changes_nothing"
    return passed(*(f"{test}[{name}]" for name in names))(sources)


QUESTIONS = (
    Question(
        "Feature expectations are captured in a schema",
        (
            find_batches,
            find_contract,
            passed("tests/unit/test_raw.py", "tests/contracts/test_great_expectations.py"),
        ),
        (find_batches,),
    ),
    Question("All features are beneficial", (find_benefit, find_importance), (find_importance,)),
    Question("No feature's cost is too much", (find_cost,)),
    Question(
        "Features adhere to meta-level requirements",
        (find_descriptions, find_definitions, passed("tests/contracts/test_definitions.py")),
        (find_descriptions,),
    ),
    Question(
        "The data pipeline has appropriate privacy controls",
        (
            find_columns_kept,
            find_reach,
            deployed("upkeep", scheduled=True),
            passed("tests/flows/test_retention.py"),
        ),
        (find_columns_kept, find_reach),
    ),
    Question(
        "New features can be added quickly",
        (deployed("backfill-features"), passed("tests/flows/test_feature_backfill.py")),
    ),
    Question(
        "All input feature code is tested",
        (find_feature_tests, passed("tests/unit/test_schemas.py", "tests/unit/test_transforms.py")),
    ),
)
