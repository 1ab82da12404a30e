"""The rules, the autoscalers' queries and the dashboard, held to promtool and to the metrics that there are."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from services.runtime.metrics import Metrics
from tests.conftest import require
from tests.kubernetes import render

MONITORING = render.K8S / "components" / "monitoring"
ADAPTER = render.K8S / "components" / "autoscaling" / "prometheus-adapter.yaml"
OPERATIONS = render.K8S.parent / "docs" / "operations.md"
# What others export; those of Envoy are seen by test_live.py.
OTHERS = re.compile(r"(kube|envoy)_[a-z_]+|up")


def promtool(*arguments: str) -> None:
    done = subprocess.run([require("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> dict[str, Any]:
    """All groups of the PrometheusRules."""
    objects = render.of_kind(render.overlay("production"), "PrometheusRule")
    return {"groups": [group for each in objects.values() for group in each["spec"]["groups"]]}


def adapter_queries(pods: str = "generator-a|generator-b") -> dict[str, str]:
    """The queries of prometheus-adapter by the metric's name, as it would ask them for the pods of a namespace."""
    found = {}
    for rule in yaml.safe_load(ADAPTER.read_text())["rules"]:
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", f'namespace="antiphon",pod=~"{pods}"')
        found[rule["name"]["as"]] = query.replace("<<.GroupBy>>", "pod")
    return found


def dashboard_queries() -> Iterator[str]:
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$namespace", "antiphon")


def keda_queries(folder: Path) -> Iterator[str]:
    for scaled in render.of_kind(render.combination(("keda",), folder), "ScaledObject").values():
        yield from (trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"])


def test_the_rules_do_what_their_tests_say(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml"))
    tests = yaml.safe_load(Path(__file__).with_name("rules.yaml").read_text())
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], **tests}))
    promtool("test", "rules", str(tmp_path / "tests.yaml"))


def test_every_alert_is_tested() -> None:
    alerts = {rule["alert"] for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load(Path(__file__).with_name("rules.yaml").read_text())["tests"]
    raised = {each["alertname"] for test in tests for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert alerts - raised == {"AntiphonStreamGapsBudgetBurn"}  # one form with the other burn, tested quiet
    assert "AntiphonFirstAudioBudgetBurn" in raised


def test_every_query_is_promql(tmp_path: Path) -> None:
    queries = [*adapter_queries().values(), *dashboard_queries(), *keda_queries(tmp_path)]
    named = [{"record": f"query:{index}", "expr": query} for index, query in enumerate(queries)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": named}]}))
    promtool("check", "rules", str(tmp_path / "queries.yaml"))


def test_every_metric_that_is_read_exists(tmp_path: Path) -> None:
    recorded = {rule["record"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule}
    ours = {sample for metric in Metrics(CollectorRegistry()).registry.collect() for sample in samples(metric)}
    queries = [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    queries += [*adapter_queries().values(), *dashboard_queries(), *keda_queries(tmp_path)]
    for query in queries:
        for name in names(query):
            assert name in ours | recorded or OTHERS.fullmatch(name), f"{name} in {query}"


def samples(metric: Any) -> set[str]:
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    return {f"{metric.name}{end}" for end in ends.get(metric.type, ("",))}


def names(query: str) -> set[str]:
    """The metrics in a query: words that are not labels, strings, functions or keywords."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without|ignoring)\s*\([^)]*\)", " ", bare)
    words = set(re.findall(r"(?<![\w.:])[a-zA-Z_][\w:]*(?!\s*\()(?![\w:])", bare))
    return words - {"and", "or", "unless", "bool", "by", "on", "sum", "min", "max", "avg", "count"}


def test_names_finds_the_metrics() -> None:
    query = 'sum by (a, b) (rate(x_total{c="d"}[5m])) / on (a) y:z:ratio > bool 1 and min by (a) (w) or vector(0)'
    assert names(query) == {"x_total", "y:z:ratio", "w"}


def test_the_autoscalers_ask_for_what_the_adapter_has() -> None:
    scalers = render.of_kind(render.overlay("production"), "HorizontalPodAutoscaler")
    asked = {
        each["pods"]["metric"]["name"] for one in scalers.values() for each in one["spec"]["metrics"] if "pods" in each
    }
    assert asked == adapter_queries().keys()


def test_the_dashboard_is_what_its_source_says() -> None:
    made = runpy.run_path(str(MONITORING / "dashboard.py"))["dashboard"]()
    assert json.loads((MONITORING / "dashboard.json").read_text()) == made
    panels = [panel["gridPos"] for panel in made["panels"]]
    places = [(place["x"], place["y"]) for place in panels]
    assert len(set(places)) == len(places)


def test_every_alert_has_its_section() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for group in rules()["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
                assert page == "docs/operations.md"
                assert anchor in anchors, rule["alert"]
