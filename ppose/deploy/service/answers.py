"""What goes in and out as JSON, as OpenAPI describes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Pair = Annotated[list[int], Field(min_length=2, max_length=2)]
Joint = Annotated[list[float], Field(min_length=3, max_length=3, description="x, y, score")]


class Choice(BaseModel):
    """Parameters of a request for poses."""

    model_config = ConfigDict(extra="forbid")

    min_score: float = Field(0.0, ge=0, le=1, description="leave out people of a lower score")
    max_people: int | None = Field(
        None, ge=1, description="give no more people than these, those of the highest scores"
    )


class Person(BaseModel):
    """One person, in pixels of the picture; integers are the middles of pixels."""

    box_xywh: list[float] = Field(min_length=4, max_length=4)
    score: float = Field(description="in 0..1")
    keypoints: list[Joint] = Field(description="in the order of /skeleton; a score of 0: not found")


class Seconds(BaseModel):
    """Where the time of a request went."""

    upload: float = Field(description="until the picture was there")
    decode: float = Field(description="until it was pixels, waiting for a turn included")
    wait: float = Field(description="until its batch began")
    network: float = Field(description="of its batch: detector, network, decoding")
    total: float


class Answer(BaseModel):
    """The people in a picture; what ppose writes elsewhere (`Poses.to_dict`), and about it."""

    image: str | None = Field(description="always null: pictures come without a file")
    image_id: int | None = Field(description="always null")
    box_source: str = Field(description="where people were looked for")
    people: list[Person]
    skeleton: str = Field(description="name of the skeleton that /skeleton describes")
    size_wh: Pair = Field(description="of the picture, turned as its EXIF orientation says")
    seconds: Seconds


class SkeletonAnswer(BaseModel):
    """Order of the joints and what to draw between them."""

    name: str
    joints: list[str]
    sides: list[Literal["left", "right", "middle"]]
    limbs: list[Pair] = Field(description="indices of joints")


class Health(BaseModel):
    """`ready` is 200, all else is 503.

    `draining`: it was told to stop and finishes what it has. `stuck`: the network has not come
    back for longer than any request may take. `failed`: its thread ended. Both call for a restart.
    """

    status: Literal["ready", "draining", "stuck", "failed"]
    queue: int = Field(description="requests under way")


class Reason(BaseModel):
    code: str
    message: str


class Error(BaseModel):
    """The one form of all errors."""

    error: Reason


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

_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}


def errors(*statuses: int) -> dict[int | str, dict]:
    """`responses` of a route that may answer with some of the known errors."""
    return {
        status: {
            "model": Error,
            "description": _ERRORS[status],
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


_ERRORS = {
    408: "The picture did not arrive in time.",
    413: "More bytes or pixels than allowed.",
    415: "Not a picture in a known format, or a content type that is none of a picture.",
    422: "Wrong parameters or form, or a picture that is empty, damaged or cut short.",
    429: "The queue is full.",
    500: "The network failed on this picture.",
    503: "Being stopped, broken, or no answer within the time limit.",
}
