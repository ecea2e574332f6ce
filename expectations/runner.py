"""The only caller of Great Expectations: validate(batch) -> a report with the failing rows.

Rules on rows are judged over the rows, rules on the batch over its profile, which is computed once. Rules
from the batch's own past are limits on measures of that profile, a row a measure.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import polars as pl

from expectations.history import rules_from_history
from expectations.parts import ROW, Sight, see, split
from expectations.profile import as_row, count_duplicates, is_measure, profile_batch, show
from expectations.report import Failure, Report, Verdict, merge_parts
from expectations.rules import LIMITS, Rule
from expectations.schema import check_schema
from feature_repo.contract import Period, RawTable

__all__ = ["Failure", "Report", "check_schema", "judge", "validate"]


def validate(
    frame: pl.DataFrame | pl.LazyFrame,
    table: RawTable,
    period: Period,
    *,
    rules: Sequence[Rule],
    add_columns: Callable[[pl.DataFrame], pl.DataFrame],
    history: pl.DataFrame,
    time_zone: str,
) -> Report:
    """Judge one batch: its schema first, then every rule.

    history   measures of the table's earlier batches: batch_id, since, until, measure, value

    A LazyFrame (files on disk, say) is judged in bounded memory, see `expectations.parts`.
    """
    schema = check_schema(frame, table)
    if schema.stops:
        return schema
    on_profile = [rule for rule in rules if rule.scope == "batch" and is_measure(rule.columns[0], table)]
    on_rows = [rule for rule in rules if rule not in on_profile]
    duplicates, parts = 0, []
    for part in split(frame, table.key, add_columns):
        duplicates += count_duplicates(part.lazy(), table)
        parts.append(judge(part, on_rows))
    profile = profile_batch(frame, table, period, duplicates=duplicates)
    past = rules_from_history(table, history, period, time_zone)
    limits = limit_table(profile, past)
    verdicts = (*merge_parts(parts), *_judge_profile(profile, on_profile), *_judge_limits(limits, past))
    found = [failure for verdict in verdicts for failure in verdict.failures]
    asked = schema.rules_run + len(rules) + len(past)
    return Report((*schema.failures, *found), asked, profile, verdicts, limits)


def judge(frame: pl.DataFrame, rules: Sequence[Rule]) -> list[Verdict]:
    """Return what Great Expectations says of each rule on the rows of a frame.

    `expectations.parts` says what it gets to see of a large one. A column ROW tells the rows' positions.
    """
    verdicts: dict[int, Verdict] = {}
    for sight in see(frame, rules):
        results = _ask(sight.frame, sight.rules)
        for rule, result in zip(sight.rules, results, strict=True):
            verdicts[id(rule)] = Verdict(rule, tuple(_read_rows(rule, result, sight, frame)), result)
    return [verdicts[id(rule)] for rule in rules]


def _read_rows(rule: Rule, result: Any, sight: Sight, frame: pl.DataFrame) -> Iterator[Failure]:
    if error := _error(result):
        yield Failure(rule.name, "batch", error)
    elif rule.scope == "batch":
        if not result.success:
            yield _fail(rule, str((result.result or {}).get("observed_value")))
    elif rows := sight.find_rows(rule, (result.result or {}).get("unexpected_index_list") or (), frame):
        shown = frame.select(c for c in rule.columns if c in frame.columns)[list(rows[:5])]
        observed = ", ".join(str(v[0] if len(v) == 1 else v) for v in shown.iter_rows())
        places = frame[ROW].gather(list(rows)).to_list() if ROW in frame.columns else rows
        yield replace(_fail(rule, observed), rows=tuple(places))


def _judge_profile(profile: Mapping[str, float], rules: Sequence[Rule]) -> list[Verdict]:
    """Judge rules that each name a measure, over the profile as a frame of one row."""
    # Great Expectations passes what is missing; here a measure that could not be taken has not passed.
    missing = [rule for rule in rules if rule.columns[0] not in profile]
    verdicts = [Verdict(rule, (_fail(rule, "could not be computed: no values"),)) for rule in missing]
    known = [rule for rule in rules if rule not in missing]
    for rule, result in zip(known, _ask(as_row(profile), known), strict=True):
        told = _error(result) or show(rule.columns[0], profile[rule.columns[0]])
        verdicts.append(Verdict(rule, () if result.success else (_fail(rule, told),), result))
    return verdicts


def _judge_limits(limits: pl.DataFrame, past: Sequence[Rule]) -> list[Verdict]:
    """Judge many limits at once: a row a measure, a column a kind of limit.

    A measure that this batch lacks passes: that its column is empty shows in its null share.
    """
    if not len(limits):
        return []
    profile = dict(limits.select("measure", "value").iter_rows())
    names = {(rule.columns[0], rule.severity): rule for rule in past}
    verdicts, stopped = [], set[str]()
    for rule, result in zip(LIMITS, _ask(limits, LIMITS), strict=True):
        if error := _error(result):
            verdicts.append(Verdict(rule, (Failure(rule.name, "batch", error),), result))
            continue
        found = limits["measure"].gather((result.result or {}).get("unexpected_index_list") or []).to_list()
        # What stops a batch need not be told a second time.
        told = [measure for measure in found if measure not in stopped]
        stopped |= set(found) if rule.severity == "critical" else set()
        broken = (_fail(names[m, rule.severity], show(m, profile[m])) for m in told)
        verdicts.append(Verdict(rule, tuple(broken), result))
    return verdicts


def limit_table(profile: Mapping[str, float], past: Sequence[Rule]) -> pl.DataFrame:
    """Return limits by measure: measure, value, stop_low, stop_high, warn_low, warn_high."""
    rows: dict[str, dict[str, Any]] = {}
    for rule in past:
        measure, kind = rule.columns[0], "stop" if rule.severity == "critical" else "warn"
        if measure in profile:
            row = rows.setdefault(measure, {"measure": measure, "value": profile[measure]})
            row[f"{kind}_low"] = rule.arguments.get("min_value")
            row[f"{kind}_high"] = rule.arguments.get("max_value")
    numbers = ("value", "stop_low", "stop_high", "warn_low", "warn_high")
    schema = {"measure": pl.String(), **dict.fromkeys(numbers, pl.Float64())}
    return pl.DataFrame(list(rows.values()), schema=schema)


def draw(verdicts: Sequence[Verdict], title: str, profile: Mapping[str, float]) -> str:
    """Return Great Expectations' own page of the results, as HTML."""
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    results = [_tell(v, profile) for v in verdicts if v.result is not None]
    passed = sum(bool(result.success) for result in results)
    suite = ExpectationSuiteValidationResult(
        success=passed == len(results),
        results=results,
        suite_name=title,
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(results) - passed,
            "success_percent": 100 * passed / max(len(results), 1),
        },
    )
    page: str = _view().render(ValidationResultsPageRenderer(run_info_at_end=True).render(suite))
    return page


def _tell(verdict: Verdict, profile: Mapping[str, float]) -> Any:
    from great_expectations.util import convert_to_json_serializable

    # A rule that held was asked for yes or no only; the page says what that means.
    result = copy(verdict.result)
    if result.success:
        none = {"unexpected_count": 0, "unexpected_percent": 0.0, "element_count": profile.get("rows")}
        measure = verdict.rule.columns[0]
        result.result = {"observed_value": profile[measure]} if measure in profile else none
    # Pandas computes NumPy's numbers, whose text the page takes for no number; as JSON they are plain ones.
    result.result = json.loads(json.dumps(convert_to_json_serializable(result.result)))
    return result


@lru_cache(maxsize=1)
def _view() -> Any:
    from great_expectations.render.view import DefaultJinjaPageView

    class View(DefaultJinjaPageView):
        """The page's view, with each template compiled once: it takes four times what drawing does."""

        _get_template = lru_cache(maxsize=64)(DefaultJinjaPageView._get_template)

    return View()


def _fail(rule: Rule, observed: str) -> Failure:
    return Failure(rule.name, rule.scope, observed, severity=rule.severity)


def _ask(frame: pl.DataFrame, rules: Sequence[Rule]) -> list[Any]:
    """Ask all rules for yes or no, then those that failed for details, which take twice the time."""
    if not rules:
        return []
    pandas = frame.to_pandas()
    results = _run(pandas, rules, "BOOLEAN_ONLY")
    failed = [i for i, result in enumerate(results) if not result.success]
    details = _run(pandas, [rules[i] for i in failed], "COMPLETE") if failed else []
    told = dict(zip(failed, details, strict=True))
    return [told.get(i, result) for i, result in enumerate(results)]


def _run(frame: Any, rules: Sequence[Rule], result_format: str) -> list[Any]:
    import great_expectations as gx

    expectations = [
        getattr(gx.expectations, rule.expect)(**rule.arguments, description=rule.name, meta={"rule": i})
        for i, rule in enumerate(rules)
    ]
    suite = gx.ExpectationSuite(name="batch", expectations=expectations)
    batch = _batch_definition().get_batch({"dataframe": frame})
    result = batch.validate(suite, result_format={"result_format": result_format})
    # Results may come in another order than the rules went in.
    return sorted(result.results, key=lambda r: r.expectation_config.meta["rule"])


def _error(result: Any) -> str | None:
    """Return why an expectation could not be computed; one that could not has not passed."""
    info = result.exception_info
    # One exception comes as itself, several as a mapping from metric to exception.
    told = [info] if info and "raised_exception" in info else list((info or {}).values())
    raised = [i for i in told if isinstance(i, dict) and i.get("raised_exception")]
    return f"could not be computed: {raised[0].get('exception_message')}" if raised else None


@lru_cache(maxsize=1)
def _batch_definition() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    # GX reports its temporary folders at INFO; a reader of the run has no use for them.
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("batch")
    return asset.add_batch_definition_whole_dataframe("whole")
