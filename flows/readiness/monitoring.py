"""The seven tests of monitoring."""

from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from flows.cli.errors import INSTALL
from flows.policy.readiness import Finding
from flows.readiness.lookups import Question, alerted, automation, counted, deployed, passed, ran
from flows.readiness.records import ROOT
from flows.readiness.sources import Sources

RULES = passed("tests/prometheus/test_rules.py::test_every_alert_fires_and_clears_in_promtool")
STALE_DAYS = 60.0  # of a model's newest row behind what has landed
SLOWER = 2.0  # times what a training usually takes


def find_lock(sources: Sources) -> Finding:
    """What is installed is what the lock names: nothing changed beneath without a commit."""
    from packaging.requirements import Requirement

    lock, other = ROOT / "requirements.lock", []
    for line in lock.read_text().splitlines():
        if not line or line.startswith((" ", "#")):
            continue
        wanted = Requirement(line.partition("--hash")[0].rstrip(" \\"))
        if wanted.marker and not wanted.marker.evaluate({"extra": "dev"}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "none"
        if found not in wanted.specifier:
            other.append(f"{wanted.name} {found} instead of {wanted.specifier}")
    if other:
        return Finding(False, f"not as locked: {', '.join(other[:3])}", "", f"Install anew: {INSTALL}.")
    return Finding(True, "every package installed is the one that the lock names", str(lock))


def find_skew(sources: Sources) -> Finding:
    """The newest probe of skew compared values and found all of them equal."""
    table = sources.table("skew")
    if not len(table):
        return Finding(False, "the skew probe has not run", "", "Run skew-probe in the Prefect UI.")
    newest = table.filter(table["until"] == table["until"].max())
    compared, bad = int(newest["compared"].sum()), int(newest["mismatched"].sum())
    until = f"{newest['until'][0]:%Y-%m-%d %H:%M}"
    told = f"{compared:,} served values made again offline, {bad} differ, until {until}"
    place = str(sources.settings.home / "lake" / "skew")
    return Finding(compared > 0 and not bad, told, place, "Read the run of skew-probe: it names the cause.")


def find_age(sources: Sources) -> Finding:
    """The champion learned from data that is not old by now."""
    from datetime import UTC, datetime, timedelta

    from flows.ingest import landed_until

    learned = datetime.fromisoformat(sources.contract["trained_until"])
    learned = learned if learned.tzinfo else learned.replace(tzinfo=UTC)
    days = (landed_until(sources.project) - learned) / timedelta(days=1)
    told = f"version {sources.champion} learned from rows until {days:.0f} days before what has landed"
    return Finding(days <= STALE_DAYS, told, str(sources.package / "contract.json"), "Run retrain.")


def find_training_time(sources: Sources) -> Finding:
    """The last training took no longer than trainings before it did."""
    took: list[Any] = [run["total_run_time"] for run in sources.runs if run["flow"] == "retrain"]
    if len(took) < 2:
        return Finding(False, f"{len(took)} trainings to compare", "", "Retrain once more.")
    usual = median(took[1:])
    told = f"the last training took {took[0]:.0f} s, before {usual:.0f} s"
    place = f"{sources.settings.prefect_url}/runs"
    return Finding(took[0] <= SLOWER * usual, told, place, "Look at what the run spent its time on.")


def find_memory(sources: Sources) -> Finding:
    """What the service's processes hold in memory, now."""
    import psutil

    from flows.local.stack import read_stack

    stack = read_stack(sources.settings.home)
    pid = stack.service("service").pid if stack and stack.running else None
    if not pid:
        return Finding(False, "the service does not run", "", "Start it with `perennial up`.")
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    held = sum(one.memory_info().rss for one in tree) / 1e6
    return Finding(
        True, f"{len(tree)} processes of the service hold {held:,.0f} MB", f"ps -o rss= --ppid {pid}"
    )


def find_verdict(sources: Sources) -> Finding:
    """The newest verdict on labels of what was served."""
    import polars as pl

    table = sources.table("verdicts")
    judged = table.filter(pl.col("auc").is_not_null()) if len(table) else table
    if not len(judged):
        return Finding(False, "no verdict on labels", "", "Run the daily loop until labels have matured.")
    last = judged.sort("window_until").row(-1, named=True)
    until = f"{last['window_until']:%Y-%m-%d}"
    told = f"window until {until}: quality {last['quality_state']}, AUC {last['auc']:.3f}"
    folder = sources.settings.home / "reports"
    return Finding(True, told, str(folder / last["report"] if last["report"] else folder))


QUESTIONS = (
    Question(
        "Dependency changes result in notification",
        (
            find_lock,
            alerted("DataOdd", "DataStopped", "TableLate"),
            RULES,
            passed("tests/flows/test_damage.py"),
        ),
        (find_lock, alerted("DataOdd", "DataStopped")),
    ),
    Question(
        "Data invariants hold in training and serving inputs",
        (
            alerted("DeadLettersMany", "CoverageLow", "QuarantineHigh"),
            counted("perennial_data_measure", data=True),
            counted("perennial_predictions_total", positive=True),
            RULES,
        ),
        (
            alerted("DeadLettersMany", "CoverageLow"),
            counted("perennial_predictions_total", positive=True),
        ),
    ),
    Question(
        "Training and serving features compute the same values",
        (find_skew, deployed("skew-probe", scheduled=True), alerted("FeaturesSkewed")),
        (find_skew,),
    ),
    Question(
        "Models are not too stale",
        # The nightly loop judges the champion and its age, and asks; the automation runs the retrain.
        (
            find_age,
            deployed("daily-loop", scheduled=True),
            deployed("retrain", scheduled=True),
            automation("retrain on"),
        ),
        (find_age,),
    ),
    Question(
        "The model is numerically stable",
        (
            alerted("ErrorRateHigh", "ChampionMissing", "VersionRefused"),
            counted("perennial_answers_total", positive=True),
            passed(
                "tests/unit/test_ladder.py::test_scores_that_are_no_probabilities_are_a_failure",
                "tests/unit/test_quality.py::test_scores_that_are_no_number_give_no_verdict",
            ),
        ),
        (
            alerted("ErrorRateHigh", "ChampionMissing"),
            counted("perennial_answers_total", positive=True),
        ),
    ),
    Question(
        "No regression in training speed, latency, throughput or memory",
        (
            alerted("LatencyHigh", "JournalSlow", "RequestsShed", "FeaturesOld"),
            counted("perennial_predict_seconds_count", positive=True),
            find_training_time,
            find_memory,
            alerted("MemoryHigh"),
        ),
        (
            alerted("LatencyHigh", "RequestsShed"),
            counted("perennial_predict_seconds_count", positive=True),
            find_memory,
        ),
    ),
    Question(
        "No regression in prediction quality on served data",
        (
            find_verdict,
            alerted("QualityLow", "EstimatedQualityLow"),
            ran("daily-loop", "replay-day", "monitor"),
            RULES,
        ),
        (find_verdict,),
    ),
)
