"""The dashboard asks for metrics that exist, all of them; Prometheus scrapes the nodes that Ray lists."""

import json
import re
from pathlib import Path

import yaml

from actors.metrics import METRICS

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


def test_panels_lie_side_by_side():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_scrapes_the_nodes_that_ray_lists():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert config.keys() == {"global", "scrape_configs"}
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
