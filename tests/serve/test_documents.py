"""The OpenAPI document: its examples are valid, its refusals are described, and what it lists is what is served."""

import jsonschema
import pytest
from live_service import LiveService
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

PROBLEM = {"$ref": "#/components/schemas/Problem"}


@pytest.fixture(scope="module")
def document(service: LiveService) -> dict:
    with service.http() as http:
        return http.get("/v1/openapi.json").json()


def validator(document: dict, schema: dict) -> jsonschema.Draft202012Validator:
    whole = Registry().with_resource("urn:document", Resource.from_contents(document, DRAFT202012))
    return jsonschema.Draft202012Validator({"$ref": f"urn:document{schema['$ref']}"}, registry=whole)


def bodies(document: dict) -> list[tuple[str, dict]]:
    found = [
        (path, operation["requestBody"]["content"]["application/json"])
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "requestBody" in operation
    ]
    assert len(found) == 4
    return found


def test_examples_fit_their_schema_and_are_accepted(service: LiveService, document: dict) -> None:
    tried = 0
    with service.http() as http:
        for path, content in bodies(document):
            for example in content["examples"].values():
                validator(document, content["schema"]).validate(example["value"])
                answer = http.post(path, json=example["value"])
                assert answer.status_code in (200, 201, 202), (path, answer.text)
                tried += 1
    assert tried >= 5


def test_every_operation_says_how_it_refuses(document: dict) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert {"400", "401", "429", "500"} <= refusals.keys(), (method, path)
            for status, answer in refusals.items():
                if (path, status) != ("/readyz", "503"):
                    assert answer["content"] == {"application/problem+json": {"schema": PROBLEM}}, (
                        method,
                        path,
                        status,
                    )


def test_a_problem_is_what_the_document_says(service: LiveService, document: dict) -> None:
    with service.http() as http, service.http(None) as stranger:
        for answer in (http.post("/v1/selections", json={"poool": 1}), http.get("/v1/x"), stranger.get("/v1/pools")):
            validator(document, PROBLEM).validate(answer.json())


def test_allow_lists_every_method_of_a_path(service: LiveService) -> None:
    with service.http() as http:
        assert http.put("/v1/targets").headers["Allow"] == "GET, POST"
        assert http.put(f"/v1/selections/{'0' * 28}").headers["Allow"] == "DELETE, GET"
