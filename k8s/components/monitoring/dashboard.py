"""Writes the Grafana dashboard: `python k8s/components/monitoring/dashboard.py` makes dashboard.json anew.

Panels are a line each here; what Grafana wants to know beside that is the same for all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NS = 'namespace="$namespace"'
OURS = f'{NS},grpc_service=~"antiphon[.].*"'

# Row → panels: title, unit, threshold (red from there on) or None, {legend: query}.
ROWS: dict[str, list[tuple[str, str, float | None, dict[str, str]]]] = {
    "What listeners notice": [
        (
            "Time to first audio",
            "s",
            1.0,
            {
                "p50": f"histogram_quantile(0.5, sum by (le) (rate(antiphon_first_audio_seconds_bucket{{{NS}}}[5m])))",
                "p95": f"histogram_quantile(0.95, sum by (le) (rate(antiphon_first_audio_seconds_bucket{{{NS}}}[5m])))",
                "p99": f"histogram_quantile(0.99, sum by (le) (rate(antiphon_first_audio_seconds_bucket{{{NS}}}[5m])))",
            },
        ),
        (
            "Streams made slower than they play",
            "percentunit",
            0.005,
            {
                "last 5 min": f"namespace:antiphon_streams_behind:ratio_rate5m{{{NS}}}",
                "last hour": f"namespace:antiphon_streams_behind:ratio_rate1h{{{NS}}}",
            },
        ),
        (
            "Calls that ended badly",
            "reqps",
            None,
            {
                "{{grpc_service}} {{grpc_code}}": "sum by (grpc_service, grpc_code) (rate(grpc_server_handled_total"
                f'{{{OURS},grpc_code!="OK"}}[5m]))'
            },
        ),
    ],
    "Budgets over 30 days": [
        (
            "Burn rate: first audio",
            "none",
            1.0,
            {
                "1 h": f"namespace:antiphon_first_audio_late:ratio_rate1h{{{NS}}} / 0.01",
                "6 h": f"namespace:antiphon_first_audio_late:ratio_rate6h{{{NS}}} / 0.01",
                "3 d": f"namespace:antiphon_first_audio_late:ratio_rate3d{{{NS}}} / 0.01",
            },
        ),
        (
            "Burn rate: stream gaps",
            "none",
            1.0,
            {
                "1 h": f"namespace:antiphon_streams_behind:ratio_rate1h{{{NS}}} / 0.005",
                "6 h": f"namespace:antiphon_streams_behind:ratio_rate6h{{{NS}}} / 0.005",
                "3 d": f"namespace:antiphon_streams_behind:ratio_rate3d{{{NS}}} / 0.005",
            },
        ),
    ],
    "Room": [
        (
            "Slots",
            "none",
            None,
            {
                "there are": f"sum(antiphon_slots{{{NS}}})",
                "hold a stream": f"sum(antiphon_slots_active{{{NS}}})",
                "wait for one": f"sum(antiphon_requests_waiting{{{NS}}})",
                "parked": f"sum(antiphon_streams_parked{{{NS}}})",
            },
        ),
        ("Slots in use", "percentunit", 0.95, {"{{pod}}": f"namespace_pod:antiphon_slots_used:ratio{{{NS}}}"}),
        ("Wait for a slot", "s", 10.0, {"{{pod}}": f"namespace_pod:antiphon_queue_wait:seconds{{{NS}}}"}),
        (
            "Step, of a frame's time",
            "percentunit",
            1.0,
            {"{{pod}}": f"namespace_pod:antiphon_step_budget:ratio{{{NS}}}"},
        ),
        (
            "Audio made, seconds a second",
            "none",
            None,
            {"{{model}}": f"sum by (model) (rate(antiphon_audio_generated_seconds_total{{{NS}}}[1m]))"},
        ),
        ("Models in memory", "none", None, {"{{pod}} {{model}}": f"antiphon_model_resident{{{NS}}}"}),
    ],
    "Calls": [
        ("Calls running", "none", None, {"{{pod}}": f"namespace_pod:antiphon_calls_running:sum{{{NS}}}"}),
        (
            "Calls begun",
            "reqps",
            None,
            {"{{grpc_method}}": f"sum by (grpc_method) (rate(grpc_server_started_total{{{OURS}}}[5m]))"},
        ),
        (
            "Length of calls, p95",
            "s",
            None,
            {
                "{{grpc_method}}": "histogram_quantile(0.95, sum by (grpc_method, le) "
                f"(rate(grpc_server_handling_seconds_bucket{{{OURS}}}[5m])))"
            },
        ),
    ],
    "Edge": [
        (
            "Healthy replicas, as the edge sees them",
            "none",
            None,
            {
                "{{envoy_cluster_name}}": "min by (envoy_cluster_name) (envoy_cluster_membership_healthy"
                f'{{{NS},envoy_cluster_name=~"generator|codec|analyzer"}})'
            },
        ),
        ("Requests running", "none", None, {"{{pod}}": f"sum by (pod) (envoy_http_downstream_rq_active{{{NS}}})"}),
        (
            "Retries and refusals",
            "reqps",
            None,
            {
                "retry {{envoy_cluster_name}}": "sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_retry"
                f"{{{NS}}}[5m]))",
                "nobody there {{envoy_cluster_name}}": "sum by (envoy_cluster_name) (rate("
                f"envoy_cluster_upstream_cx_none_healthy{{{NS}}}[5m]))",
            },
        ),
    ],
    "Replicas": [
        (
            "Replicas",
            "none",
            None,
            {
                "{{deployment}}": f"kube_deployment_status_replicas_ready{{{NS}}}",
                "{{horizontalpodautoscaler}} wanted": f"kube_horizontalpodautoscaler_status_desired_replicas{{{NS}}}",
            },
        ),
        (
            "Version",
            "none",
            None,
            {"{{service}} {{version}}": f"count by (service, version) (antiphon_build_info{{{NS}}})"},
        ),
    ],
}
WIDTH, HEIGHT = 24, 8


def dashboard() -> dict[str, Any]:
    """Return the dashboard in the form that Grafana imports."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, members in ROWS.items():
        panels.append(_placed(len(panels) + 1, {"type": "row", "title": row, "collapsed": False}, 0, top, WIDTH, 1))
        top += 1
        for index, (title, unit, threshold, queries) in enumerate(members):
            width = WIDTH // min(3, len(members))
            panel = _panel(title, unit, threshold, queries)
            panels.append(_placed(len(panels) + 1, panel, index % 3 * width, top + index // 3 * HEIGHT, width, HEIGHT))
        top += (len(members) + 2) // 3 * HEIGHT
    return {
        "uid": "antiphon",
        "title": "Antiphon",
        "tags": ["antiphon"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": "label_values(antiphon_build_info, namespace)",
                    "refresh": 2,
                },
            ]
        },
        "panels": panels,
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _panel(title: str, unit: str, threshold: float | None, queries: dict[str, str]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never"}
    if threshold is not None:
        steps.append({"color": "red", "value": threshold})
        custom["thresholdsStyle"] = {"mode": "line"}
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(queries.items())
        ],
    }


def _placed(number: int, panel: dict[str, Any], left: int, top: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **panel}


if __name__ == "__main__":
    Path(__file__).with_name("dashboard.json").write_text(json.dumps(dashboard(), indent=1) + "\n")
