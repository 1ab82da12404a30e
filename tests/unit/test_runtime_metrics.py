"""The metrics' names are a contract with dashboards and autoscalers."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.metrics import METRICS, Metrics, start_exporter


def test_the_exporter_serves_the_documented_names() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.set_build("generator")
    for metric in (metrics.first_audio, metrics.step_duration):
        metric.labels("tiny").observe(0.02)
    metrics.audio_generated.labels("tiny").inc(2.5)
    metrics.requests_waiting.labels("tiny").set(1)
    metrics.slots_active.labels("tiny").set(2)
    metrics.slots.labels("tiny").set(8)
    exporter = start_exporter("127.0.0.1:0", metrics.registry)
    with urlopen(f"http://127.0.0.1:{exporter.port}/metrics") as response:
        page = response.read().decode()
    for line in (
        'antiphon_build_info{service="generator",version="',
        'antiphon_first_audio_seconds_bucket{le="0.02",model="tiny"} 1.0',
        'antiphon_step_duration_seconds_bucket{le="0.02",model="tiny"} 1.0',
        'antiphon_audio_generated_seconds_total{model="tiny"} 2.5',
        'antiphon_requests_waiting{model="tiny"} 1.0',
        'antiphon_slots_active{model="tiny"} 2.0',
        'antiphon_slots{model="tiny"} 8.0',
    ):
        assert line in page
    assert "_created" not in page
    with pytest.raises(OSError):
        start_exporter(f"127.0.0.1:{exporter.port}", metrics.registry)
    exporter.close()


def test_the_services_share_one_instance_with_the_process_metrics() -> None:
    with_process = {metric.name for metric in METRICS.registry.collect()}
    assert {"process_cpu_seconds", "antiphon_slots", "grpc_server_handled"} <= with_process
