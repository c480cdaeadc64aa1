"""The dashboard asks for metrics that exist, all of them; Prometheus scrapes the nodes that Ray lists."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.common import RequestProtocol
from ray.serve._private.request_ingress_metrics import RequestIngressMetrics

from actors.metrics import METRICS
from ray_app.service.metrics import METRICS as SERVICE_METRICS

FOLDER = Path(__file__).parents[2] / "cluster_configs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SERIES = re.compile(r"\bray_\w+")


def test_every_expression_names_series_that_are_exported_with_the_labels_they_have():
    labels = {series: {"run", "le", *metric.tags} for metric in METRICS for series in metric.series}
    for expression in EXPRESSIONS:
        names = SERIES.findall(expression)
        assert names
        assert set(names) <= labels.keys(), expression
        grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
        assert grouped <= set.union(*(labels[name] for name in names)), expression
        assert all(f'{name}{{run=~"$run"}}' in expression for name in names), expression


def test_every_metric_is_shown():
    shown = {name for expression in EXPRESSIONS for name in SERIES.findall(expression)}
    assert {metric.name for metric in METRICS if not shown & set(metric.series)} == set()


def test_what_streams_is_shown_as_a_rate_and_all_else_as_it_is():
    """Losses are shown as totals: what a counter begins with is no increase, so that a rate would hide the first."""
    streams = re.compile(r"ray_clusterucb_(samples_total|tokens_total|busy_seconds_total|batch_seconds_bucket)")
    for expression in EXPRESSIONS:
        for name, window in re.findall(r"\b(ray_\w+)\{[^}]*\}(\[\$__rate_interval\])?", expression):
            assert bool(window) == bool(streams.fullmatch(name)), expression


def test_the_variables_are_those_the_panels_use():
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "run"}
    (query,) = (v["query"] for v in DASHBOARD["templating"]["list"] if v["name"] == "run")
    assert set(SERIES.findall(query)) <= {series for metric in METRICS for series in metric.series}
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in DASHBOARD["panels"])


SERVICE = json.loads((FOLDER / "grafana_service.json").read_text())
OF_SERVE = {
    "ray_serve_num_http_requests_total": {"route", "method", "application", "status_code"},
    "ray_serve_http_request_latency_ms_bucket": {"route", "method", "application", "status_code", "le"},
}


def test_the_services_dashboard_asks_for_all_of_its_metrics_and_for_ray_serves():
    labels = {series: {"le", *metric.tags} for metric in SERVICE_METRICS for series in metric.series} | OF_SERVE
    expressions = [target["expr"] for panel in SERVICE["panels"] for target in panel["targets"]]
    for expression in expressions:
        names = SERIES.findall(expression)
        assert names
        assert set(names) <= labels.keys(), expression
        grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
        assert grouped <= set.union(*(labels[name] for name in names)), expression
    shown = {name for expression in expressions for name in SERIES.findall(expression)}
    assert {metric.name for metric in SERVICE_METRICS if not shown & set(metric.series)} == set()


def test_ray_serve_has_the_metrics_and_labels_that_are_asked_for():
    recorded = RequestIngressMetrics(RequestProtocol.HTTP, source="proxy", node_id="", node_ip_address="")
    described = {
        f"ray_{metric._name}": set(metric.info["tag_keys"])
        for metric in vars(recorded).values()
        if hasattr(metric, "info")
    }
    for series, labels in OF_SERVE.items():
        name = re.sub(r"_(total|bucket)$", "", series)
        assert labels - {"le"} <= described[name], described


@pytest.mark.parametrize("dashboard", [DASHBOARD, SERVICE], ids=["runs", "service"])
def test_panels_lie_side_by_side(dashboard: dict[str, Any]):
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_scrapes_the_nodes_that_ray_lists():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert config.keys() == {"global", "scrape_configs"}
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
