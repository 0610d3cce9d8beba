"""Pydantic schemas of requests and responses, as documented by OpenAPI."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

Pair = Annotated[list[int], Field(min_length=2, max_length=2)]
Joint = Annotated[list[float], Field(min_length=3, max_length=3, description="x, y, score")]


class PoseQuery(BaseModel):
    """Query parameters of `POST /pose`."""

    model_config = ConfigDict(extra="forbid")

    min_score: float = Field(0.0, ge=0, le=1, description="omit people with lower scores")
    max_people: int | None = Field(
        None, ge=1, description="maximum number of people; those with the highest scores are kept"
    )


class Person(BaseModel):
    """One person, in pixels of the image; pixel centres have integer coordinates."""

    box_xywh: list[float] = Field(min_length=4, max_length=4)
    score: float = Field(description="in 0..1")
    keypoints: list[Joint] = Field(description="in the order of /skeleton; score 0 if not detected")


class Seconds(BaseModel):
    """Duration of the stages of a request."""

    upload: float = Field(description="until the image had arrived")
    decode: float = Field(description="decoding of the image, including waiting time")
    wait: float = Field(description="until its batch started")
    network: float = Field(description="of its batch: detector, network, decoding of the maps")
    total: float


class PoseResponse(BaseModel):
    """The people in an image, as in `Poses.to_dict`, and details of the request."""

    image: str | None = Field(description="always null")
    image_id: int | None = Field(description="always null")
    box_source: str = Field(description="origin of the boxes")
    people: list[Person]
    skeleton: str = Field(description="name of the skeleton; see /skeleton")
    size_wh: Pair = Field(description="of the image, after rotation by its EXIF orientation")
    seconds: Seconds


class SkeletonResponse(BaseModel):
    """Names of the joints, in order, and limbs."""

    name: str
    joints: list[str]
    sides: list[Literal["left", "right", "middle"]]
    limbs: list[Pair] = Field(description="indices of joints")


class Health(BaseModel):
    """State of the service; 200 for `ready`, else 503.

    `overloaded`: a new request would get 429 or probably 503, as the queue is full or its first
    image has waited for half of the time limit. `draining`: shutting down, active requests are
    completed. `stuck`: the network has been running longer than twice the time limit of requests.
    `failed`: the worker thread ended. The last two require a restart.
    """

    status: Literal["ready", "overloaded", "draining", "stuck", "failed"]
    queue: int = Field(description="requests whose image has arrived")
    uploads: int = Field(description="uploads in progress")


class Reason(BaseModel):
    """Code and message of an error."""

    code: str
    message: str


class Error(BaseModel):
    """Response of all errors."""

    error: Reason


_Model = TypeVar("_Model", bound=BaseModel)


def openapi_component(name: str, model: type[_Model]) -> type[_Model]:
    """The model under its published OpenAPI component name, which generated clients depend on."""
    return create_model(name, __base__=model, __doc__=model.__doc__)


IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff")

_BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        **{kind: {"schema": _BINARY} for kind in IMAGE_TYPES},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["image"], "properties": {"image": _BINARY}}
        },
    },
}

_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}


def error_responses(*statuses: int) -> dict[int | str, dict]:
    """`responses` of a route for these error statuses."""
    return {
        status: {
            "model": Error,
            "description": _ERROR_DESCRIPTIONS[status],
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in statuses
    }


_ERROR_DESCRIPTIONS = {
    408: "The upload took too long, or was the slowest when others needed its place.",
    413: "Too many bytes or pixels, or decoding takes too long.",
    415: "Unsupported image format, content type or content encoding.",
    422: "Invalid parameters or form, or an empty, damaged or truncated image.",
    429: "The queue is full, or too many uploads are in progress.",
    500: "The network failed on this image.",
    503: "Shutting down, failed, or no response within the time limit.",
}
