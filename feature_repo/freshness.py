"""Which values of the online store may be used at an instant, and how old they are. Pure.

A value that may not be used, missing or expired, becomes null: so it does in training, where the
point-in-time join gives null beyond a view's `ttl` or where there is no row, and the model (histogram
gradient boosting) learned from those nulls which way they go in each split. Nothing else is imputed, on
either side. Where more than half is gone, the ladder does not ask a model at all (services/ladder.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from feature_repo.contract import Problem


@dataclass(frozen=True, slots=True)
class OnlineVector:
    """Store-backed features of one request; None where there is no value that may be used.

    missing   features that the store has no value for
    expired   feature -> age in seconds, older than its view's `ttl`; negative: from after the request
    ages      view -> age in seconds of the row that it holds, expired or not
    """

    values: dict[str, Any]
    missing: tuple[str, ...]
    expired: dict[str, float]
    ages: Mapping[str, float] = field(default_factory=dict)


def judge_rows(problem: Problem, rows: Sequence[tuple[float, Sequence[Any]]], at: datetime) -> OnlineVector:
    """Return the newest rows that there are, judged at an instant.

    rows  for each feature table its row's tick, in seconds since 1970 (0 or less: no row), and its
          features' values in the order in which the table states them
    """
    values: dict[str, Any] = {}
    missing: list[str] = []
    expired: dict[str, float] = {}
    ages: dict[str, float] = {}
    now = at.timestamp()
    for table, (stamp, held) in zip(problem.feature_tables, rows, strict=True):
        if stamp <= 0:
            missing += table.features
            values.update(dict.fromkeys(table.features))
            continue
        ages[table.name] = age = now - stamp
        if 0 <= age <= table.ttl.total_seconds():
            values.update(zip(table.features, map(_take, held), strict=True))
        else:
            expired.update(dict.fromkeys(table.features, age))
            values.update(dict.fromkeys(table.features))
    return OnlineVector(values, tuple(missing), expired, ages)


def judge_ages(problem: Problem, answer: Mapping[str, list[Any]], index: int, at: datetime) -> OnlineVector:
    """Return row `index` of the newest values that there are, judged at an instant.

    answer  feature -> values, and feature__ts -> the seconds since 1970 of each one's tick, or 0
    """
    rows = [
        (answer[f"{next(iter(table.features))}__ts"][index], [answer[name][index] for name in table.features])
        for table in problem.feature_tables
    ]
    return judge_rows(problem, rows, at)


def _take(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    # NaN stands for null wherever pandas has been.
    return None if math.isnan(value) else float(value)
