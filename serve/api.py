"""The HTTP app: OpenAI's chat completions, task predictions, and what operators ask for.

Nothing of Ray here: ``app.py`` puts this app into a Ray Serve deployment, tests run it alone.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from serve import catalogue
from serve.answers import (
    NOTICE,
    ChatChunk,
    ChatCompletion,
    Experts,
    ModelFacts,
    ModelList,
    Predictions,
    TaskList,
)
from serve.audit import Audit, AuditLog
from serve.auth import KeyCheck, Keys
from serve.chat_answers import chunks, complete
from serve.choosing import task_label
from serve.deadline import deadline, until
from serve.door import Door
from serve.errors import NotReadyError, ServingError
from serve.gateway import Gateway
from serve.http_errors import count, error_body, handle_errors
from serve.limits import BodyLimit
from serve.metrics import CONTENT_TYPE, metrics_text
from serve.notes import notes
from serve.openapi import FACT_ERRORS, QUESTION_ERRORS, describe_api
from serve.quick_json import QuickJsonRoute
from serve.quota import Quota, QuotaCheck, charge
from serve.samples import Sample, SampleList, Samples
from serve.schemas import ChatRequest, PredictRequest
from serve.uploads import Uploads

STATIC = Path(__file__).parent / "static"
READY_S = 60.0
"""Seconds for which a model that has described itself is ready: its queue may be long by then."""
READY_TIMEOUT_S = 5.0
"""Seconds that a readiness check waits for a model that has not."""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Swagger UI writes style attributes."""
DESCRIPTION = f"""Answers questions about X-rays, ECGs, labs, vital signs and text from one bundle
of FedKIM-Ray, and names the task and the experts that answered.

**{NOTICE}**"""


def create_app(
    gateway: Gateway,
    *,
    keys: Keys | None = None,
    quota: Quota | None = None,
    audit: AuditLog | None = None,
    hosts: Sequence[str] = (),
    samples: Samples | None = None,
    exporter_urls: Callable[[], list[str] | None] = lambda: None,
) -> FastAPI:
    """Build the app around a gateway.

    Args:
        gateway: What answers.
        keys: Who may ask; anybody where None.
        quota: How often; without limit where None.
        audit: Where it is written down who asked; nowhere where None.
        hosts: Names by which the service may be addressed, against a page of another site whose
            name was pointed at this machine; any where empty.
        samples: Inputs that the playground offers; none where None.
        exporter_urls: Metric exporters of the cluster's nodes, asked anew for each scrape; None
            outside a cluster.
    """
    app = FastAPI(
        title="FedKIM-Ray",
        version=version("fedkim-ray"),
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; ours is below
        redoc_url=None,
    )
    handle_errors(app)
    describe_api(app, with_keys=keys is not None)

    app.include_router(_questions(gateway, quota))
    app.include_router(_facts(gateway, samples or Samples()))
    app.include_router(_operations(gateway, exporter_urls))
    app.include_router(_page())
    app.mount("/static/swagger", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Uploads)  # each one added stands outside of those before it
    app.add_middleware(BodyLimit, limits=gateway.limits)
    if quota is not None:
        app.add_middleware(QuotaCheck, quota=quota)
    if keys is not None:
        app.add_middleware(KeyCheck, keys=keys)
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    if audit is not None:
        app.add_middleware(Audit, audit=audit)  # outside of all that refuses: refusals are told too
    app.add_middleware(Door)  # added last, so outermost
    return app


def _questions(gateway: Gateway, quota: Quota | None) -> APIRouter:
    router = APIRouter(
        prefix="/v1",
        tags=["questions"],
        responses=QUESTION_ERRORS,
        route_class=QuickJsonRoute,
    )

    @router.post("/chat/completions", response_model=ChatCompletion, responses=STREAM)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """Answer a chat; with `stream`, as server-sent events of chunks, then `[DONE]`."""
        told, ends_at = notes(request.scope), time.monotonic() + gateway.limits.request_s
        async with deadline(ends_at):
            asked = await gateway.understand_chat(body)
            told.task = task_label(asked.request.task)
            if not body.stream:
                whole = await complete(gateway, asked)
                told.bundle_version = whole.fedkim.bundle_version
                return whole
        options = body.stream_options
        with_usage = bool(options and options.include_usage)
        answer = until(ends_at, chunks(gateway, asked, with_usage))
        first = await anext(answer)
        told.bundle_version = first.bundle_version
        return StreamingResponse(_events(request, first, answer), media_type="text/event-stream")

    @router.post("/tasks/{task}/predict")
    async def predict(task: str, body: PredictRequest, request: Request) -> Predictions:
        """Ask one task about one or many patients, in JSON, or about one with files in a form."""
        told = notes(request.scope)
        async with deadline(time.monotonic() + gateway.limits.request_s):
            known = await gateway.find_task(task, body)
            told.task = task
            if quota is not None and len(body.inputs) > 1:
                await charge(quota, request.scope, len(body.inputs))
            asked = await gateway.understand_inputs(known, body)
            answers = await gateway.predict(asked)
        told.bundle_version = answers.bundle_version
        return answers

    return router


def _facts(gateway: Gateway, samples: Samples) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["facts"], responses=FACT_ERRORS)

    @router.get("/models")
    async def models() -> ModelList:
        """List the bundle that is served."""
        return catalogue.model_list(await gateway.served.described(), gateway.started)

    @router.get("/models/{model}")
    async def model(model: str) -> ModelFacts:
        """Describe the bundle that is served."""
        described = await gateway.served.find(lambda d: catalogue.known_model(d, model))
        return catalogue.model_facts(described, gateway.started)

    @router.get("/tasks")
    async def tasks() -> TaskList:
        """List the tasks, with leads, features, units and bounds of their inputs."""
        return catalogue.task_list(await gateway.served.described())

    @router.get("/experts")
    async def experts() -> Experts:
        """List each task's expert weights."""
        return catalogue.experts(await gateway.served.described())

    @router.get("/samples")
    async def sample_list() -> SampleList:
        """List test rows that the playground offers."""
        return samples.list()

    @router.get("/samples/{sample_id}")
    async def sample(sample_id: str) -> Sample:
        """Give one test row as an input of `predict`."""
        return samples.get(sample_id)

    return router


def _operations(gateway: Gateway, exporter_urls: Callable[[], list[str] | None]) -> APIRouter:
    router = APIRouter(tags=["operations"], responses=FACT_ERRORS)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Say that the model answers, or has within a minute, and in which version."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                described = await gateway.served.lately(READY_S)
        except TimeoutError:
            raise NotReadyError(
                "The engine does not answer.",
                f"It answers within {READY_TIMEOUT_S:g} s.",
                "Wait; see the server's log if this lasts.",
            ) from None
        return {"status": "ready", "bundle_version": described.facts.version}

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Give the metrics of all nodes in Prometheus' text format."""
        urls = await asyncio.to_thread(exporter_urls)
        return Response(await metrics_text(urls), media_type=CONTENT_TYPE)

    return router


def _page() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def playground() -> FileResponse:
        """Give the playground."""
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return FileResponse(STATIC / "index.html", headers=headers)

    @router.get("/docs")
    async def docs() -> FileResponse:
        """Give the page of the API's description."""
        headers = {"Content-Security-Policy": DOCS_POLICY}
        return FileResponse(STATIC / "docs.html", headers=headers)

    return router


async def _events(
    request: Request, first: ChatChunk, rest: AsyncGenerator[ChatChunk, None]
) -> AsyncIterator[str]:
    """Write chunks as server-sent events; an error after the first becomes an event too."""
    async with aclosing(rest):
        yield _event(first)
        try:
            async for chunk in rest:
                yield _event(chunk)
        except ServingError as error:
            count(error)
            notes(request.scope).broken = error.status
            yield f"data: {json.dumps(error_body(error))}\n\n"
            return
        yield "data: [DONE]\n\n"


def _event(chunk: ChatChunk) -> str:
    plain = chunk.model_dump(exclude_none=True)
    for choice in plain["choices"]:
        choice.setdefault("finish_reason", None)  # OpenAI's clients look for it
    return f"data: {json.dumps(plain)}\n\n"
