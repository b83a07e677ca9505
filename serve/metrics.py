"""What ``/metrics`` answers: every process of every node, or this process where no cluster runs.

Ray's exporter, one a node, has the metrics of all of its replicas and workers. Their texts are
merged family by family, so that one address shows the whole cluster. No node is asked twice, and
series carry their node's address as a label, so none occurs twice.
"""

import asyncio
from collections.abc import Iterable

import httpx

from fedkim_ray import telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NODE_TIMEOUT_S = 3.0


async def metrics_text(urls: Iterable[str] | None) -> bytes:
    """Return metrics in Prometheus' text format.

    Args:
        urls: Exporters of a cluster's nodes; None where no cluster runs. A node that does not
            answer is left out: the others' metrics are worth having without it.
    """
    if urls is None:
        return telemetry.render()
    async with httpx.AsyncClient(timeout=NODE_TIMEOUT_S, trust_env=False) as client:
        texts = await asyncio.gather(*(_fetch(client, url) for url in urls))
    return merge(texts).encode()


def merge(texts: Iterable[str]) -> str:
    """Merge expositions: one header a family, all samples of a family together."""
    headers: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                _, kind, family, *_ = line.split(" ", 3)
                headers.setdefault(family, {}).setdefault(kind, line)
            elif line and not line.startswith("#"):
                samples.setdefault(_owner(line, family), []).append(line)
    families = dict.fromkeys([*headers, *samples])
    lines = [x for f in families for x in (*headers.get(f, {}).values(), *samples.get(f, []))]
    return "".join(line + "\n" for line in lines)


def _owner(line: str, family: str) -> str:
    """Return the family of a sample: the header's before it, where its name goes on from that."""
    name = line.split("{", 1)[0].split(" ", 1)[0]
    return family if family and name.startswith(family) else name


async def _fetch(client: httpx.AsyncClient, url: str) -> str:
    try:
        answer = await client.get(url)
        answer.raise_for_status()
    except httpx.HTTPError:
        return ""
    return answer.text
