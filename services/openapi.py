"""The OpenAPI document, made from the structs that the service decodes with."""

from typing import Any

import msgspec

from feature_repo.contract import Problem
from services.answering import SEVERITY
from services.decoding import MAX_ITEMS
from services.ladder import REASONS
from services.wire import Wire

TEMPLATE = "#/components/schemas/{name}"
TEXT, NULLABLE = {"type": "string"}, {"type": ["string", "null"]}
INSTANT = {"type": "string", "format": "date-time"}
FLAG = {
    "type": "object",
    "properties": {
        "feature": TEXT,
        "kind": {"enum": list(SEVERITY)},
        "got": {
            "type": ["string", "number", "null"],
            "description": "The value; if expired, its age in seconds, negative if from after the request.",
        },
    },
}
TAKEN = {
    "type": "object",
    "properties": {
        "accepted": {"type": "integer", "minimum": 1},
        "outcome_ids": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["accepted", "outcome_ids"],
}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"field": TEXT, "got": {}, "expected": TEXT, "next_step": TEXT},
        }
    },
}


def describe(problem: Problem, wire: Wire) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the service."""
    kinds = (wire.request, wire.feedback)
    (request, feedback), schemas = msgspec.json.schema_components(kinds, ref_template=TEMPLATE)
    predict = _operation("Predict", request, wire.example, "200", _one_or("predictions", _refer("Answer")))
    told = _operation("Tell an outcome", feedback, wire.example_feedback, "202", TAKEN)
    live = {"summary": "What this worker serves", "responses": {"200": {"description": "Its state"}}}
    text = {"200": {"description": "Text"}}
    counted = {"summary": "What was counted, as Prometheus reads it", "responses": text}
    posts = {"/predict": predict, "/feedback": told}
    gets = {"/live": live, "/metrics": counted}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Perennial: {problem.name}", "version": "1"},
        "paths": {
            **{path: {"post": one} for path, one in posts.items()},
            **{path: {"get": one} for path, one in gets.items()},
        },
        "components": {"schemas": {**schemas, "Answer": _answer(problem), "Flag": FLAG, "Error": ERROR}},
    }


def _answer(problem: Problem) -> dict[str, Any]:
    properties = {
        "prediction_id": TEXT,
        problem.entity: TEXT,
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "model_version": NULLABLE,
        "served_by": {"enum": ["champion", "challenger", "previous", "rule", "prior"]},
        "reason": {"enum": list(REASONS)},
        "flags": {"type": "array", "items": _refer("Flag")},
        "requested_at": INSTANT,
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _operation(summary: str, item: Any, example: Any, status: str, answer: Any) -> dict[str, Any]:
    many = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_ITEMS}
    refusals = {
        "400": "Not JSON",
        "408": "Too slow",
        "413": "Too large",
        "422": "A field is wrong",
        "503": "Try again",
    }
    failed = _json(_refer("Error"))
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json({"oneOf": [item, many]}, example)},
        "responses": {
            status: {"description": "Taken", "content": _json(answer)},
            **{code: {"description": text, "content": failed} for code, text in refusals.items()},
        },
    }


def _one_or(name: str, item: Any) -> dict[str, Any]:
    many = {"type": "object", "properties": {name: {"type": "array", "items": item}}, "required": [name]}
    return {"oneOf": [item, many], "description": "One for one; a list for a list."}


def _refer(name: str) -> dict[str, str]:
    return {"$ref": TEMPLATE.format(name=name)}


def _json(schema: Any, example: Any = None) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **({"example": example} if example else {})}}
