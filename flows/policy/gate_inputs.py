"""The gate on a candidate's inputs: do they hold what they should, and only what was known in time?

Two signs of a leak. Values that cannot be made again with the future withheld (Kaufman et al., Leakage in
Data Mining, 2012, call it the prediction-time separation of learning), whatever they are worth. And an
input that alone outdoes every model before it: what is too good to be true is left for a person to allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.policy.gate_check import Check

NAMED = 6  # columns that a check names before it counts the rest


@dataclass(frozen=True)
class InputPolicy:
    """What is asked of inputs.

    null_gain     0.2 of a column's rows more null than where it was learned, or than in the champion
    empty         0.99 null is a column that says nothing
    unseen        0.1 of the rows with categories that training never saw
    outside       0.5 of the rows outside the range of training: a season moves temperatures out of it by
                  a third of the rows in honest data; a broken unit by all of them
    differ        0.01 of the values made again may differ: sums in another order, a row restated meanwhile
    min_compared  values of a column, with fewer of which nothing is known of it
    alone_margin  0.05 of AUC by which one input alone may outdo the best model there was
    alone_first   0.9, where there was none
    """

    null_gain: float = 0.2
    empty: float = 0.99
    unseen: float = 0.1
    outside: float = 0.5
    differ: float = 0.01
    min_compared: int = 50
    alone_margin: float = 0.05
    alone_first: float = 0.9


@dataclass(frozen=True)
class InputColumn:
    """One input of the candidate: in what it learned from, in the rows it is judged on, in the champion.

    alone   AUC of its values by themselves on the rows judged, or None if it has one value only
    """

    name: str
    fitted_null: float
    held_null: float
    champion_null: float | None = None
    unseen: float = 0.0
    outside: float = 0.0
    alone: float | None = None


@dataclass(frozen=True)
class Remade:
    """One input's values made again for a sample of the rows judged, with the future withheld."""

    name: str
    compared: int
    differ: int
    example: str = ""


def check_contract(columns: Sequence[InputColumn], policy: InputPolicy = InputPolicy()) -> Check:
    """Check that every input holds what it held where the candidate, and the champion, learned."""
    found = [told for column in columns for told in _find_breaks(column, policy)]
    broken = len({told.split(" is ", 1)[0] for told in found})
    got = (
        f"{broken} of {len(columns)} inputs broken: {_name(found)}"
        if found
        else f"all {len(columns)} inputs hold"
    )
    return Check("input contract", bool(columns) and not found, got, "each input as it was learned")


def check_remade(remade: Sequence[Remade], policy: InputPolicy = InputPolicy()) -> Check:
    """Check that the candidate's values are those that were known when it would have been asked."""
    name, expected = "leak: values as known at the decision", "the same values with the future withheld"
    thin = [one.name for one in remade if one.compared < policy.min_compared]
    if not remade or len(thin) == len(remade):
        return Check(name, False, "no value could be made again", expected)
    if thin:
        told = [f"{one} in fewer than {policy.min_compared} rows" for one in thin]
        return Check(name, False, f"not made again: {_name(told)}", expected)
    leaks = sorted(
        (one for one in remade if one.differ > policy.differ * one.compared), key=lambda one: -one.differ
    )
    told = [f"{one.name} differs in {one.differ} of {one.compared}{_show(one)}" for one in leaks]
    counted = f"{sum(one.compared for one in remade):,} values of {len(remade)} inputs made again"
    return Check(name, not leaks, _name(told) if leaks else counted, expected)


def check_alone(
    columns: Sequence[InputColumn], best: float | None, policy: InputPolicy = InputPolicy()
) -> Check:
    """Check that no input alone outdoes the best AUC that a champion has had."""
    bound = policy.alone_first if best is None else best + policy.alone_margin
    ranked = sorted(((one.alone or 0.5, one.name) for one in columns), reverse=True)
    above = [f"{name} alone has AUC {auc:.3f}" for auc, name in ranked if auc > bound]
    top = f"{ranked[0][1]} alone has AUC {ranked[0][0]:.3f}" if ranked else "no input"
    got = _name(above) if above else top
    return Check(
        "leak: no input alone is too good to be true", bool(ranked) and not above, got, f"at most {bound:.3f}"
    )


def _find_breaks(column: InputColumn, policy: InputPolicy) -> list[str]:
    name, fitted, champion = column.name, column.fitted_null, column.champion_null
    found = []
    if fitted >= policy.empty and not (champion is not None and champion >= policy.empty):
        found.append(f"{name} is null in {fitted:.0%} of what it learned from")
    elif champion is not None and fitted > champion + policy.null_gain:
        found.append(
            f"{name} is null in {fitted:.0%} of what it learned from, {champion:.0%} for the champion"
        )
    if column.held_null > fitted + policy.null_gain:
        found.append(f"{name} is null in {column.held_null:.0%} of newer rows, {fitted:.0%} where it learned")
    if column.unseen > policy.unseen:
        found.append(f"{name} is of a category never seen in {column.unseen:.0%} of newer rows")
    if column.outside > policy.outside:
        found.append(f"{name} is outside its range in {column.outside:.0%} of newer rows")
    return found


def _name(told: Sequence[str]) -> str:
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return "; ".join(told[:NAMED]) + more


def _show(one: Remade) -> str:
    return f" ({one.example})" if one.example else ""
