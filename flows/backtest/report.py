"""The backtest as a table for people and as JSON for programs."""

import math
from dataclasses import asdict
from datetime import datetime
from typing import Any

from flows.backtest.measures import Difference, Worth
from flows.backtest.run import Backtest
from flows.policy.retraining import DEFAULT

HEAD = (
    *("policy", "mean AUC", "skill min", "worst week", "retrains", "rejected", "fit s"),
    *("regret AUC", "regret loss"),
)


def list_lines(found: Backtest) -> list[tuple[str, ...]]:
    """Return the table's lines under HEAD, a policy each."""
    return [_tell_worth(worth) for worth in found.worths]


def list_remarks(found: Backtest) -> list[str]:
    """Return what the table does not say: differences between policies, and how to read it."""
    lines = [_tell_difference(worth.policy, one) for worth in found.worths for one in _pick(worth)]
    return [
        *lines,
        "mean AUC: of the months, each alike.",
        "worst week: AUC less that of the first model, which learned from all known then, left alone.",
        "regret: to the model that turned out best in each week, of all trained by then, gate or no gate.",
        f"{found.models} models fitted for all policies together; {found.seconds:.0f} s.",
    ]


def to_json(found: Backtest) -> dict[str, Any]:
    """Return all figures as plain values; what cannot be told is null."""
    return {
        "problem": found.problem,
        "since": found.period.since.isoformat(),
        "until": found.period.until.isoformat(),
        "seconds": round(found.seconds, 1),
        "models": found.models,
        "policies": [_plain(asdict(worth)) for worth in found.worths],
    }


def _pick(worth: Worth) -> list[Difference]:
    return [one for one in worth.differences if worth.policy == DEFAULT]


def _tell_difference(name: str, one: Difference) -> str:
    return (
        f"{name} against {one.other}: mean monthly AUC {one.auc:+.4f}; log loss {one.log_loss:+.4f} "
        f"({one.low:+.4f} to {one.high:+.4f}, whole days resampled)"
    )


def _tell_worth(worth: Worth) -> tuple[str, ...]:
    return (
        worth.policy,
        _tell(worth.mean_auc, ".4f"),
        _tell(worth.skill_min, "+.3f"),
        _tell(worth.worst_week, "+.4f"),
        str(worth.retrains),
        str(worth.rejected),
        f"{worth.seconds:.0f}",
        _tell(worth.regret_auc, ".4f"),
        _tell(worth.regret_loss, ".4f"),
    )


def _tell(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "unknown"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
