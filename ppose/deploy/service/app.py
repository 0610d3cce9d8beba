"""The FastAPI application: routes and error handlers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ppose.deploy.service.batching import EstimateFn
from ppose.deploy.service.errors import RequestError
from ppose.deploy.service.hosts import HostPatterns
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.middleware import ServiceMiddleware
from ppose.deploy.service.pages import add_page
from ppose.deploy.service.prometheus import CONTENT_TYPE
from ppose.deploy.service.schemas import (
    REQUEST_BODY,
    Health,
    PoseQuery,
    PoseResponse,
    SkeletonResponse,
    error_responses,
    openapi_component,
)
from ppose.deploy.service.service import Service
from ppose.structures.skeleton import Skeleton
from ppose.utils.log import log
from ppose.version import __version__


def make_app(
    estimate: EstimateFn,
    *,
    skeleton: Skeleton,
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Creates an ASGI application that returns the people in an image, `POST /pose`.

    Routes and errors are documented in `/openapi.json`.

    Args:
        estimate: (H, W, 3) uint8 RGB images of any sizes → one `Poses` each. It always runs in the
            same thread; at startup it runs on a grey image, so that a broken network fails early.
        skeleton: of these poses.
        limits: None for the defaults.
        allowed_hosts: names that the Host of a request may have, see `hosts.HostPatterns`.
    """
    service = Service(estimate, skeleton, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="ppose",
        description="Human pose estimation in images. Every error has the form of `Error`.",
        version=__version__,
        lifespan=lifespan,
        # They load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        # It would point to whatever Host the request named.
        redirect_slashes=False,
    )
    app.state.service = service
    _add_routes(app, service)
    add_page(app)
    _add_error_handlers(app)
    app.add_middleware(
        ServiceMiddleware,
        requests=service.metrics.requests,
        max_bytes=service.limits.max_bytes,
        hosts=HostPatterns(allowed_hosts),
    )
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/pose",
        summary="Estimate poses",
        response_model=openapi_component("Answer", PoseResponse),
        responses=error_responses(408, 413, 415, 422, 429, 500, 503),
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def pose(request: Request, query: Annotated[PoseQuery, Query()]) -> Response:
        """Detects the people in a JPEG, PNG, WebP, BMP or TIFF image.

        The image is the request body, or the field `image` of a form. Its format is detected.
        """
        content = await service.estimate_poses(request, query)
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")

    @app.get(
        "/skeleton",
        summary="Joints and limbs",
        response_model=openapi_component("SkeletonAnswer", SkeletonResponse),
    )
    async def skeleton() -> dict:
        """Names of the keypoints, in order, and limbs."""
        described = service.skeleton
        return {
            "name": described.name,
            "joints": described.joint_names,
            "sides": described.sides,
            "limbs": described.limb_index.tolist(),
        }

    @app.get(
        "/healthz",
        summary="Whether the service accepts requests",
        response_model=Health,
        responses={503: {"model": Health, "description": "Not ready."}},
    )
    async def healthz() -> Response:
        health = Health(status=service.status, queue=service.queue, uploads=len(service.uploads))
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


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def handle_request_error(request: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])[:100]
        known = ", ".join(PoseQuery.model_fields)
        message = f"parameter '{name}': {first['msg']}; known parameters: {known}"
        return RequestError(422, "parameter", message).response()

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        message = (
            f"{request.method[:20]} {request.url.path[:100]}: {error.detail}; see /openapi.json"
        )
        headers = dict(error.headers or {})
        return RequestError(error.status_code, code, message, headers=headers).response()

    @app.exception_handler(Exception)
    async def handle_bug(request: Request, error: Exception) -> Response:
        log.error("internal error: %s", error, exc_info=error)
        return RequestError(500, "bug", "internal error; see the service's log").response()
