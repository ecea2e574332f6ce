"""The policy backtest over March to December 2013, on the data as it lands: what the kept model is worth.

The year is taken in by the real ingest, four weeks a batch, and its features are computed. With BACKTEST_HOME
set, the home is kept there and taken in once; the models are fitted anew in every run.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from feature_repo.contract import Period
from feature_repo.settings import Settings
from flows.backtest.run import Backtest, run_backtest
from flows.policy.retraining import DEFAULT
from flows.project import Project, open_project

FIRST, LAST = date(2013, 1, 1), date(2014, 1, 1)  # taken in
SINCE = date(2013, 3, 1)  # replayed from here on
BATCH = timedelta(days=28)
POLICIES = ("never", "weekly", DEFAULT)
JOBS = 2
MIN_AUC, WORST_WEEK, MAX_SECONDS = 0.740, -0.005, 1_200


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    with _choose_home() as folder:
        project = open_project(Settings(home=Path(folder), mlflow_port=1))  # nobody answers there
        take_in(project)
        shutil.rmtree(project.settings.home / "backtest", ignore_errors=True)
        until = max(project.day(LAST - timedelta(days=1)).since, project.day(SINCE).since)
        found = run_backtest(project, Period(project.day(SINCE).since, until), POLICIES, JOBS)
    yield from show_figures(found)


def take_in(project: Project) -> None:
    """Land the year and compute its features, unless that was done."""
    from flows.features import build_features
    from flows.ingest import ingest_period, landed_until

    done = project.settings.home / "taken_in"
    if done.is_file():
        return
    day = FIRST
    while day < LAST:
        following = min(LAST, day + BATCH)
        ingest_period(project, Period(project.day(day).since, project.day(following).since))
        day = following
    build_features(project, Period(project.day(FIRST).since, landed_until(project)))
    done.touch()


def show_figures(found: Backtest) -> Iterator[dict[str, Any]]:
    """Yield what the kept model is worth beside the frozen one and beside the weekly calendar."""
    by_name = {worth.policy: worth for worth in found.worths}
    kept, weekly, frozen = by_name[DEFAULT], by_name["weekly"], by_name["never"]
    told = f"backtest, {DEFAULT}"
    yield _figure(
        f"{told}: mean monthly AUC, March to December",
        round(kept.mean_auc, 4),
        f">= {MIN_AUC:g}",
        kept.mean_auc >= MIN_AUC,
        months={month.name: round(month.auc, 4) for month in kept.months},
        **{name: round(worth.mean_auc, 4) for name, worth in by_name.items()},
    )
    yield _figure(
        f"{told}: least Brier skill of a month",
        round(kept.skill_min, 4),
        "> 0",
        kept.skill_min > 0,
        months={month.name: round(month.skill, 3) for month in kept.months},
    )
    yield _figure(
        f"{told}: AUC less the frozen model's, in the worst week",
        round(kept.worst_week, 4),
        f">= {WORST_WEEK:g}",
        kept.worst_week >= WORST_WEEK,
        week_of=f"{kept.worst_since:%Y-%m-%d}",
        frozen_mean_auc=round(frozen.mean_auc, 4),
    )
    yield _figure(
        f"{told}: retrains, rejected ones too, beside the weekly calendar's",
        kept.retrains,
        f"< {weekly.retrains}",
        kept.retrains < weekly.retrains,
        rejected=kept.rejected,
        weekly_rejected=weekly.rejected,
        fit_seconds={worth.policy: round(worth.seconds) for worth in found.worths},
    )
    gain = next(one for one in kept.differences if one.other == "weekly")
    yield _figure(
        f"{told}: mean monthly AUC less the weekly calendar's",
        round(gain.auc, 5),
        ">= 0",
        gain.auc >= 0,
        log_loss=round(gain.log_loss, 5),
        log_loss_by_days=[round(gain.low, 5), round(gain.high, 5)],
        regret_auc={worth.policy: round(worth.regret_auc, 4) for worth in found.worths},
    )
    yield _figure(
        f"backtest: seconds for {len(found.worths)} policies, {found.models} models, {os.cpu_count()} CPUs",
        round(found.seconds),
        f"<= {MAX_SECONDS}",
        found.seconds <= MAX_SECONDS,
    )


def _choose_home() -> AbstractContextManager[str]:
    named = os.environ.get("BACKTEST_HOME")
    return nullcontext(named) if named else tempfile.TemporaryDirectory(prefix="perennial-backtest-")


def _figure(name: str, value: Any, bar: str, ok: bool, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok), **more}
