"""The judgement of a window against a reference that knows when its rows were decided."""

from datetime import timedelta

import numpy as np
import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import Lake
from flows.judgement import monitor_window
from tests.flows.test_monitor import START, TOY, FakeJournal, answer, draw, write_package

DAY = timedelta(days=1)


def judge(folder, shift, decided):
    """Judge one day whose `x` is off by `shift` against 20 days, every one off by its own, or timeless."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    package = write_package(folder / "package")
    parts = [
        pl.DataFrame(draw(rng, 200, shift=rng.normal(0, 1.5))).with_columns(
            pl.lit(START - (20 - day) * DAY + DAY / 2).alias(TOY.decided_at)
        )
        for day in range(20)
    ]
    reference = pl.concat(parts)
    reference = reference if decided else reference.drop(TOY.decided_at)
    reference.write_parquet(package / "reference.parquet")
    rows = pl.DataFrame(draw(rng, 400, shift=shift)).to_dicts()
    journal = FakeJournal([answer(i, START + i * DAY / 400, values) for i, values in enumerate(rows)])
    window = Period(START, START + DAY)
    return monitor_window(
        Lake(folder / "lake"), journal, TOY, package, window, reports=folder / "reports", version="1",
        draw=False,
    )  # fmt: skip


def test_a_day_no_farther_off_than_the_references_days_raises_no_alarm_of_inputs(tmp_path):
    """The same day alarms where the reference's times are not known: then rows are all that counts."""
    known, blind = (judge(tmp_path / str(held), 1.5, held) for held in (True, False))
    assert ("inputs" in known.alarms, "inputs" in blind.alarms) == (False, True)
    assert known.drift.columns[0].usual > 0 == blind.drift.columns[0].usual
