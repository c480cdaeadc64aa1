"""The OpenAPI document: problem documents for every refusal, examples that are tried by a test.

Invariant: every status that a handler can answer is in it, with its media type and schema.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from clusterucb.config import Catalogue
from serve.problems import MEDIA_TYPE, Mistake, Problem

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_SAYS = {
    400: "The request cannot be read.",
    401: "There is no valid token.",
    403: "The token's scope does not allow it.",
    404: "It is not there, or it is somebody else's.",
    406: "There is no such format.",
    408: "The body did not arrive in time.",
    409: "It does not fit the state that things are in.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    421: "The service is not known under this host name.",
    422: "Fields are wrong; each is named with its value and the way out.",
    429: "Too much is asked at the moment; Retry-After says when to ask again.",
    500: "The service failed unforeseen.",
    503: "What stands behind the service does not answer; Retry-After says when to ask again.",
}
_ALWAYS = (400, 401, 421, 429, 500, 503)
_WITH_BODY = (408, 413, 415, 422)


def problems(*statuses: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """Describe the refusals of a handler: these, and those that every request can meet."""
    every = sorted({*statuses, *_ALWAYS, *(_WITH_BODY if body else ())})
    return {status: {"description": _SAYS[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}} for status in every}


CHAT = [
    {"role": "user", "content": "What is 17 times 6?"},
    {"role": "assistant", "content": "17 times 6 is 102."},
]
SELECTION_EXAMPLES: dict[str, Any] = {
    "named": {
        "summary": "A target of the catalogue",
        "value": {
            "pool": "lessons",
            "checkpoint": "smollm2-135m",
            "target": "arithmetic",
            "search": {"budget": 0.3},
            "selection": {"share": 0.05},
        },
    },
    "inline": {
        "summary": "Examples sent along, another allocator",
        "value": {
            "pool": "lessons",
            "checkpoint": "smollm2-135m",
            "target": {"rows": [{"messages": CHAT, "task": "times"}], "subtask_field": "task"},
            "search": {"budget": 0.2, "allocator": {"kind": "ucb1"}},
            "selection": {"count": 20},
            "label": "times tables",
        },
    },
    "several": {
        "summary": "Two targets that share a budget, until enough is found of each",
        "value": {
            "pool": "lessons",
            "checkpoint": "smollm2-135m",
            "targets": [
                {"name": "arithmetic", "weight": 2.0},
                {"name": "mine", "rows": [{"messages": CHAT}]},
            ],
            "search": {"budget": 0.4, "until": {"recall": 0.8}},
            "selection": {"share": 0.05, "joint": "round_robin"},
        },
    },
    "chosen": {
        "summary": "Near-copies, sources, lengths and diversity",
        "value": {
            "pool": "lessons",
            "checkpoint": "smollm2-135m",
            "target": "arithmetic",
            "gates": {"near": {"policy": "report", "threshold": 0.7}},
            "selection": {
                "share": 0.05,
                "caps": {"source": {"share": 0.5}, "near_duplicate": {"count": 1}},
                "normalise": {"kind": "length_quantile", "buckets": 4},
                "diversity": {"kind": "facility_location", "quality": 0.6},
            },
        },
    },
}
SCORE_EXAMPLES: dict[str, Any] = {
    "two": {
        "summary": "Two samples",
        "value": {
            "checkpoint": "smollm2-135m",
            "target": "arithmetic",
            "rows": [{"id": "a", "messages": CHAT}, {"prompt": "Say hello.", "completion": "Hello."}],
        },
    }
}
TARGET_EXAMPLES: dict[str, Any] = {
    "times": {
        "summary": "One example under a name",
        "value": {"name": "times-tables", "description": "multiplication", "rows": [{"messages": CHAT}]},
    }
}


def describe(app: FastAPI, catalogue: Catalogue) -> None:
    """Have an application describe itself, problem documents and the names of its catalogue included."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = found["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            template = "#/components/schemas/{model}"
            schemas["Problem"] = Problem.model_json_schema(ref_template=template)
            schemas["Problem"].pop("$defs", None)
            schemas["Mistake"] = Mistake.model_json_schema(ref_template=template)
            _require_kinds(schemas)
            _name(found, catalogue)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document


def _name(document: dict[str, Any], catalogue: Catalogue) -> None:
    """Put the catalogue's names where a request names something, and into the examples, which then can be sent."""
    names = {"pool": list(catalogue.pools), "checkpoint": list(catalogue.checkpoints)}
    for schema in ("SelectionRequest", "ScoreRequest"):
        properties = document["components"]["schemas"][schema]["properties"]
        for field in names.keys() & properties.keys():
            properties[field]["enum"] = names[field]
    firsts = {field: known[0] for field, known in names.items()}
    firsts |= {"target": next(iter(catalogue.targets))} if catalogue.targets else {}
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                named = {field: name for field, name in firsts.items() if isinstance(example["value"].get(field), str)}
                example["value"] = example["value"] | named
                for asked in example["value"].get("targets", ()) if "target" in firsts else ():
                    asked |= {} if "rows" in asked else {"name": firsts["target"]}


def _require_kinds(schemas: dict[str, Any]) -> None:
    """Say that the kind of an algorithm has to be named: the discriminator of a union is never left out."""
    for schema in schemas.values():
        kind = schema.get("properties", {}).get("kind", {})
        if "const" in kind:
            schema["required"] = sorted({*schema.get("required", ()), "kind"})
