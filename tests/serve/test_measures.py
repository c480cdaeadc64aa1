"""Plans and scores, and the catalogue that they name."""

from live_service import LiveService

ROWS = [{"id": "sum", "prompt": "one plus", "completion": "two equals"}, {"prompt": "owl", "completion": "lark wren"}]


def test_a_plan_tells_what_a_run_will_cost(service: LiveService, body: dict[str, object]) -> None:
    with service.http() as http:
        plan = http.post("/v1/plans", json=body).json()
    assert (plan["pool"]["samples"], plan["budget"], plan["selected"]) == (160, 64, 8)
    assert plan["gradients"] == 64 + 8 + 32  # search, target, audit


def test_scores_rank_the_rows_that_were_sent(service: LiveService) -> None:
    with service.http() as http:
        found = http.post("/v1/scores", json={"checkpoint": "tiny", "target": "sums", "rows": ROWS}).json()
        many = http.post("/v1/scores", json={"checkpoint": "tiny", "target": "sums", "rows": ROWS[1:] * 5})
    assert [score["rank"] for score in found["scores"]] == [1, 2]
    assert "sum" in {score["id"] for score in found["scores"]}
    assert found["scores"][0]["influence"] >= found["scores"][1]["influence"]
    assert many.status_code == 422
    assert "limits.score_rows" in many.json()["detail"]


def test_targets_are_uploaded_used_and_forgotten(service: LiveService, body: dict[str, object]) -> None:
    upload = {"name": "mine", "rows": ROWS, "description": "two rows"}
    with service.http() as http, service.http("bob") as other:
        before = http.get("/v1/targets").json()["targets"]  # other tests of this service may have left some
        assert [http.post("/v1/targets", json=upload).status_code for _ in range(2)] == [201, 200]
        assert http.post("/v1/targets", json=upload | {"rows": ROWS[:1]}).status_code == 409
        names = {target["name"]: target["origin"] for target in http.get("/v1/targets").json()["targets"]}
        assert {"sums": "catalogue", "birds": "catalogue", "mine": "uploaded"}.items() <= names.items()
        assert set(names) - {"mine"} == {target["name"] for target in before}
        assert http.post("/v1/plans", json=body | {"target": "mine"}).json()["target"]["samples"] == 2
        assert other.post("/v1/plans", json=body | {"target": "mine"}).status_code == 422
        assert other.delete("/v1/targets/mine").status_code == 404
        assert http.delete("/v1/targets/mine").status_code == 204
        assert http.delete("/v1/targets/mine").status_code == 404


def test_the_catalogue_shows_names_and_no_paths(service: LiveService) -> None:
    with service.http("eve") as http:
        told = [http.get(f"/v1/{kind}") for kind in ("pools", "checkpoints", "targets")]
    assert told[0].json()["pools"] == [{"name": "mixed", "description": ""}]
    assert [entry["name"] for entry in told[1].json()["checkpoints"]] == ["tiny"]
    where = service.config.catalogue.pools["mixed"].path.rpartition("/")[0]
    assert not any(where in answer.text for answer in told)
