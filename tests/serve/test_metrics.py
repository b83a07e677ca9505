"""The merged view of several nodes' exporters."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.metrics import merge, metrics_text

FIRST = """\
# HELP ray_requests_total Requests.
# TYPE ray_requests_total counter
ray_requests_total{node="a"} 2.0
# HELP ray_seconds Seconds.
# TYPE ray_seconds histogram
ray_seconds_bucket{node="a",le="1.0"} 1.0
ray_seconds_bucket{node="a",le="+Inf"} 3.0
ray_seconds_count{node="a"} 3.0
ray_seconds_sum{node="a"} 9.0
"""
SECOND = FIRST.replace('"a"', '"b"') + "bare 7\n"


def test_families_of_two_nodes_stand_together() -> None:
    merged = merge([FIRST, SECOND])
    assert merged.count("# TYPE ray_seconds histogram") == 1
    families = {f.name: f for f in text_string_to_metric_families(merged)}
    nodes = [s.labels["node"] for s in families["ray_requests"].samples]
    assert nodes == ["a", "b"]
    assert len(families["ray_seconds"].samples) == 8
    assert families["bare"].samples[0].value == 7


@pytest.fixture
def exporter() -> Iterator[str]:
    """One node's exporter."""

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(FIRST.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Exporter)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()


def test_a_node_that_does_not_answer_is_left_out(exporter: str) -> None:
    text = asyncio.run(metrics_text([exporter, "http://127.0.0.1:9/metrics"]))
    assert text.decode() == FIRST


def test_without_a_cluster_this_process_speaks_for_itself() -> None:
    families = text_string_to_metric_families(asyncio.run(metrics_text(None)).decode())
    assert all(family.name.startswith("fedkim_") for family in families)
