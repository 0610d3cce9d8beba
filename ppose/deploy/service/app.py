"""The application: routes and the one form of errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ppose import __version__
from ppose.deploy.service.answers import (
    REQUEST_BODY,
    Answer,
    Choice,
    Health,
    SkeletonAnswer,
    errors,
)
from ppose.deploy.service.batching import Find
from ppose.deploy.service.edge import Edge
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.metrics import CONTENT_TYPE
from ppose.deploy.service.pages import add_page
from ppose.deploy.service.refusals import RefusedError
from ppose.deploy.service.service import Service
from ppose.log import log
from ppose.skeleton import Skeleton


def make_app(find: Find, *, skeleton: Skeleton, limits: Limits | None = None) -> FastAPI:
    """An ASGI application that answers `POST /pose` with the people in the picture.

    Its routes and their errors stand in `/openapi.json`.

    Args:
        find: (H, W, 3) uint8 RGB pictures of any sizes → one `Poses` each. It runs in one thread
            only; first on a grey picture before any request, so that a broken network ends the
            start.
        skeleton: of those poses.
        limits: None for the defaults.
    """
    service = Service(find, skeleton, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="ppose",
        description="People in pictures. Every error has the form of `Error`.",
        version=__version__,
        lifespan=lifespan,
        # They load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _add_routes(app, service)
    add_page(app)
    _add_error_forms(app)
    app.add_middleware(Edge, requests=service.metrics.requests, max_bytes=service.limits.max_bytes)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/pose",
        summary="Find people",
        response_model=Answer,
        responses=errors(408, 413, 415, 422, 429, 500, 503),
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def pose(request: Request, choice: Annotated[Choice, Query()]) -> Response:
        """People in one JPEG, PNG, WebP, BMP or TIFF picture, whose content says which.

        The picture is the body, or the field `image` of a form.
        """
        answer = await service.answer(request, choice)
        return Response(json.dumps(answer, allow_nan=False), media_type="application/json")

    @app.get("/skeleton", summary="Joints and limbs", response_model=SkeletonAnswer)
    async def skeleton() -> dict:
        """What the keypoints of an answer are, in their order."""
        of = service.skeleton
        limbs = of.limb_index.tolist()
        return {"name": of.name, "joints": of.joint_names, "sides": of.sides, "limbs": limbs}

    @app.get(
        "/healthz",
        summary="Whether pictures are taken",
        response_model=Health,
        responses={503: {"model": Health, "description": "Not ready."}},
    )
    async def healthz() -> Response:
        health = Health(status=service.status, queue=service.queue)
        status = 200 if health.status == "ready" else 503
        return Response(health.model_dump_json(), status, media_type="application/json")

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _add_error_forms(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])[:100]
        known = ", ".join(Choice.model_fields)
        message = f"parameter '{name}': {first['msg']}; parameters are {known}"
        return RefusedError(422, "parameter", message).response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        message = f"{request.method} {request.url.path[:100]}: {error.detail}; see /openapi.json"
        headers = dict(error.headers or {})
        return RefusedError(error.status_code, code, message, headers=headers).response()

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        log.error("a bug in the service: %s", error, exc_info=error)
        return RefusedError(500, "bug", "the service failed; its log says why").response()
