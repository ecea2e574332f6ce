"""Every Feast object, made from the problem's own statement of its features.

`feast apply` reads OBJECTS' values from this module's names; the loop calls `build_objects` itself.
"""

from typing import Any

import polars as pl
from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Bool, Float64, Int64, String, UnixTimestamp

from feature_repo.contract import FeatureTable, Problem
from feature_repo.fingerprint import REQUEST, describe_inputs, describe_table, fingerprint, fingerprint_all
from feature_repo.offline_store import LakeSource
from feature_repo.problem import PROBLEM
from feature_repo.request_inputs import list_functions

TYPES: dict[Any, Any] = {pl.Float64: Float64, pl.Int64: Int64, pl.String: String, pl.Boolean: Bool}


def build_objects(problem: Problem) -> dict[str, Any]:
    """Return the entities, feature views, request-time view and feature service of a problem, by name."""
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for table in problem.feature_tables
        for key in table.keys
    }
    views = {table.name: _build_view(table, entities) for table in problem.feature_tables}
    request = _build_request_view(problem)
    service = FeatureService(
        name=problem.feature_service,
        features=[*(views[table.name] for table in problem.used_tables), request],
        description=f"What the model {problem.name} takes. A change of it is a new version.",
        tags=fingerprint_all(describe_inputs(problem)),
        owner=problem.owner,
    )
    return {**entities, **views, REQUEST: request, problem.feature_service: service}


def _build_view(table: FeatureTable, entities: dict[str, Entity]) -> FeatureView:
    source = LakeSource(
        name=table.name, path=table.name, timestamp_field="event_timestamp", file_format=DeltaFormat()
    )
    keys = [Field(name=key, dtype=String) for key in table.keys]
    features = [
        Field(name=name, dtype=TYPES[kind], description=table.meanings.get(name, ""))
        for name, kind in table.features.items()
    ]
    return FeatureView(
        name=table.name,
        entities=[entities[key] for key in table.keys],
        ttl=table.ttl,
        schema=[*keys, *features],
        source=source,
        online=True,
        description=table.description,
        owner=table.owner,
        tags={
            "version": str(table.version),
            "reads": ", ".join(table.reads),
            "every": str(table.every),
            "fingerprint": fingerprint(describe_table(table)),
        },
    )


def _build_request_view(problem: Problem) -> OnDemandFeatureView:
    numbers = request_numbers(problem)
    meanings = {f.name: f.meaning for f in problem.features}
    fields = [
        Field(name=name, dtype=UnixTimestamp if isinstance(kind, pl.Datetime) else TYPES[kind])
        for name, kind in problem.request_fields.items()
    ]
    # Feast keeps a view's function as source text and runs that: the text may lean on imports only.
    functions = list_functions(problem.add_request_features)
    imports = [
        f"    from {f.__module__} import {f.__qualname__} as add_{i}\n" for i, f in enumerate(functions)
    ]
    source = (
        "def request(inputs):\n"
        "    import polars as pl\n"
        "    from feature_repo.request_inputs import SideBySide\n"
        f"{''.join(imports)}"
        f"    add = SideBySide(({', '.join(f'add_{i}' for i in range(len(functions)))},))\n"
        f"    asked = pl.from_pandas(inputs[{list(problem.request_fields)}])\n"
        f"    return add(asked).select({numbers}).to_pandas()\n"
    )
    namespace: dict[str, Any] = {}
    exec(source, namespace)  # noqa: S102 - the text above, nothing from outside
    return OnDemandFeatureView(
        name=REQUEST,
        sources=[RequestSource(name=f"{REQUEST}_fields", schema=fields)],
        schema=[Field(name=name, dtype=Float64) for name in numbers],
        feature_transformation=PandasTransformation(udf=namespace["request"], udf_string=source),
        mode="pandas",
        description="What the request itself says, as the model takes it.",
        owner=problem.owner,
        # Feast refuses fields with a description here: it compares them with what it infers.
        tags={name: meanings[name] for name in numbers},
    )


def request_numbers(problem: Problem) -> list[str]:
    """Return the numeric inputs that are computed from a request, not copied out of it."""
    request = [f.name for f in problem.features if f.source == "request" and f.kind == "number"]
    return [name for name in request if name not in problem.request_fields]


OBJECTS = build_objects(PROBLEM)
globals().update({f"_{name}": value for name, value in OBJECTS.items()})
