"""What a window is watched for: each signal's state and its reason in words.

A retrain is asked for by flows.policy.trigger alone: on realised quality, or on drift of what the model
relies on. The other signals are alarms: a new model does not cure a slow service, a feed that went
null, or values that are computed in two ways. Latency and errors do not wait for a window to end: the rules
of Prometheus judge them while it runs (infra/prometheus/rules/alerts.yml).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import betaincinv

from flows.policy.drift import ColumnDrift, DriftVerdict
from flows.policy.estimate import Estimate


@dataclass(frozen=True, slots=True)
class SignalPolicy:
    """Limits of the signals.

    coverage   the champion itself answers 95% of what is asked; the rest is fallback.
    flagged    at most 20% of inputs missing, unseen, out of range or expired.
    lacking    5% of a window's rows at hours that the reference lacks: columns are not compared on them.
    alpha      shares are judged by a one-sided 99.9% bound (Clopper and Pearson, 1934), so that few
               requests raise nothing by chance.
    """

    coverage: float = 0.95
    flagged: float = 0.20
    lacking: float = 0.05
    alpha: float = 0.001


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal of a window: "ok", "alarm" or "unknown"; never "ok" for want of data."""

    name: str
    state: str
    reason: str


def judge_inputs(drift: DriftVerdict, policy: SignalPolicy = SignalPolicy()) -> Signal:
    """Alarm on any column that surely moved, whatever it weighs, the calendar's too."""
    if not drift.enough:
        return Signal("inputs", "unknown", drift.reasons[0])
    moved, count = drift.drifted, len(drift.columns) + len(drift.calendar)
    lacks = bound_share(drift.unmatched, drift.rows, policy.alpha) > policy.lacking
    told = [f"{drift.unmatched} of {drift.rows} rows at hours that the reference lacks"] if lacks else []
    if not moved:
        return Signal(
            "inputs",
            "alarm" if lacks else "ok",
            told[0] if lacks else f"none of {count} columns surely moved",
        )
    named = ", ".join(f"{c.name} ({c.level}, weight {c.weight:.0%})" for c in moved[:5])
    more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
    return Signal(
        "inputs", "alarm", "; ".join((f"{len(moved)} of {count} columns moved: {named}{more}", *told))
    )


def judge_predictions(drift: ColumnDrift | None) -> Signal:
    """Alarm if the score's own distribution surely moved."""
    if drift is None:
        return Signal("predictions", "unknown", "no verdict on the scores: too few of them")
    return Signal("predictions", "alarm" if drift.level != "none" else "ok", drift.reason)


def judge_estimate(estimate: Estimate) -> Signal:
    """Alarm if the scores alone say that ranking surely fell."""
    state = "alarm" if estimate.state == "breach" else estimate.state
    return Signal("estimated quality", state, estimate.reason)


def judge_skew(compared: int, mismatched: Mapping[str, int]) -> Signal:
    """Alarm if any served value differs from what training would have computed: by feature, how many do."""
    if not compared:
        return Signal("skew", "unknown", "no served value was compared with its recomputation")
    wrong = sum(mismatched.values())
    told = f"{wrong} of {compared} served values differ from their recomputation"
    named = ", ".join(f"{name} {count}" for name, count in mismatched.items() if count)
    return Signal("skew", "alarm" if wrong else "ok", f"{told}: {named}" if wrong else told)


def judge_coverage(answered: int, asked: int, policy: SignalPolicy = SignalPolicy()) -> Signal:
    """Alarm if the champion surely answers less than its share."""
    told = f"the champion answered {answered} of {asked}, {policy.coverage:.0%} wanted"
    return _judge_share("coverage", asked - answered, asked, 1 - policy.coverage, told, policy)


def judge_flagged(flagged: int, answered: int, policy: SignalPolicy = SignalPolicy()) -> Signal:
    """Alarm if surely too many inputs were missing, unseen, out of range or expired."""
    told = f"{flagged} of {answered} inputs flagged, {policy.flagged:.0%} allowed"
    return _judge_share("flagged inputs", flagged, answered, policy.flagged, told, policy)


def list_alarms(signals: Sequence[Signal]) -> tuple[str, ...]:
    """Name the signals that alarm."""
    return tuple(signal.name for signal in signals if signal.state == "alarm")


def bound_share(count: int, of: int, alpha: float) -> float:
    """Return the lower end of a share's one-sided exact interval."""
    return float(betaincinv(count, of - count + 1, alpha)) if count else 0.0


def _judge_share(name: str, bad: int, of: int, allowed: float, told: str, policy: SignalPolicy) -> Signal:
    if not of:
        return Signal(name, "unknown", f"no {name} verdict: nothing was asked")
    return Signal(name, "alarm" if bound_share(bad, of, policy.alpha) > allowed else "ok", told)
