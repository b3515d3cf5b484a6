"""What the API takes and gives, for its OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vitscope.serve.job import State
from vitscope.serve.limits import Limits


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: Annotated[str, Field(description="One line: what is wrong, and what to do.")]


class MethodInfo(BaseModel):
    """A method that is defined for a model."""

    name: Annotated[str, Field(description="For the field `methods`; options follow a colon: agcam:scores=softmax.")]
    title: str
    family: str
    paper: str
    year: int
    signed: Annotated[bool, Field(description="Whether negative values are evidence against the target.")]
    class_specific: Annotated[bool, Field(description="Whether the map depends on the target.")]
    cost: Annotated[str, Field(description="In forwards, a number first; empty for the general path.")]
    caution: Annotated[str, Field(description="What its map does not say.")]


class ModelInfo(BaseModel):
    """A model that is loaded."""

    name: Annotated[str, Field(description="For the field `model`.")]
    classes: Annotated[list[str], Field(description="Names of its outputs in order; none without a classifier.")]
    texts: Annotated[bool, Field(description="Whether a target may be any text.")]
    input_size: Annotated[list[int], Field(description="Height and width of its input in pixels.")]
    methods: list[MethodInfo]
    default_methods: Annotated[str, Field(description="Those that are taken where none is named, with commas between.")]


class Models(BaseModel):
    """The models that are loaded; the first is taken where none is named."""

    models: list[ModelInfo]


class ProgressInfo(BaseModel):
    """How far a method is that runs the model on altered pictures."""

    method: str
    done: Annotated[int, Field(description="Forwards, for all pictures of the pass.")]
    total: int


class JobInfo(BaseModel):
    """A job as it stands."""

    id: Annotated[str, Field(description="Known to nobody else.")]
    model: str
    pictures: int
    state: State
    ahead: Annotated[int, Field(description="Of a job that waits: how many wait before it.")]
    progress: Annotated[ProgressInfo | None, Field(description="Of a job that runs, where a method tells.")]
    error: Annotated[str | None, Field(description="Of a job that failed, expired or was cancelled: why.")]


class Packed(BaseModel):
    """An array: base64 of little-endian numbers. Of int16: value = level / 32767 * scale of the leading entry."""

    dtype: Literal["float32", "int16"]
    shape: list[int]
    data: str
    scale: Annotated[str | None, Field(description="Of int16: base64 of float32, one an entry of the first axis.")] = (
        None
    )


class ClassInfo(BaseModel):
    """A class of one picture."""

    index: int
    name: str
    logit: float
    probability: Annotated[
        float | None,
        Field(description="By the softmax or sigmoid that `provenance.activation` names; null where that is none."),
    ]


class Flow(BaseModel):
    """How the evidence comes together over blocks."""

    share: Annotated[list[float], Field(description="Of each block, of all the evidence.")]
    half: Annotated[float, Field(description="The block at which half of it is there.")]


class MethodMap(MethodInfo):
    """What one method says of one picture."""

    label: Annotated[str, Field(description="As it was asked for.")]
    cautions: Annotated[list[str], Field(description="What a reader must know, the gravest first.")]
    options: dict[str, Any]
    values: Annotated[Packed, Field(description="The raw map: rows, columns.")]
    blocks: Annotated[Packed | None, Field(description="Each block's own map: block, row, column.")]
    flow: Flow | None


class Failure(BaseModel):
    """Methods without a map."""

    methods: list[str]
    reason: str


class LensInfo(BaseModel):
    """The evidence of every class: as factors, as maps, or none."""

    form: Literal["factors", "maps", "none"]
    grid: Annotated[list[int] | None, Field(description="Rows and columns.")] = None
    effects: Annotated[
        Packed | None,
        Field(description="Of `factors`: patch, feature. The map of class c is `effects` times row c of `weight`."),
    ] = None
    classes: Annotated[list[int] | None, Field(description="Of `maps`: which; null for all, in order.")] = None
    maps: Annotated[Packed | None, Field(description="Of `maps`: class, patch.")] = None
    reason: Annotated[str | None, Field(description="Of `none`.")] = None


class Picture(BaseModel):
    """Everything about one picture."""

    schema_version: int
    name: Annotated[str, Field(description="The file's name, as a label.")]
    title: Annotated[str, Field(description="What is predicted and explained, in a line.")]
    photo: Annotated[str, Field(description="The picture, made smaller where it is large, as a data: address.")]
    size: Annotated[list[int], Field(description="Height and width of the picture that was sent.")]
    notes: Annotated[list[str], Field(description="What should be known of how the file was read, a line each.")]
    window: Annotated[
        list[float], Field(description="Top, left, height and width of what the model saw, in shares of the picture.")
    ]
    asked: Annotated[str, Field(description="The target in words.")]
    explained: Annotated[ClassInfo | None, Field(description="The class; null for another target.")]
    prediction: Annotated[ClassInfo | None, Field(description="Null without a classifier.")]
    logits: Packed | None
    provenance: Annotated[dict[str, Any], Field(description="Versions, model, preprocessing, activation.")]
    geometry: dict[str, Any]
    methods: list[MethodMap]
    failures: list[Failure]
    shared: Annotated[str, Field(description="The key of what it has in common with others, in the result's `shared`.")]
    lens: LensInfo


class Shared(BaseModel):
    """What the pictures have in common."""

    classes: list[str]
    weight: Annotated[Packed | None, Field(description="For a lens of the form `factors`: class, feature.")]


class Result(BaseModel):
    """What a job gives."""

    pictures: list[Picture]
    shared: Annotated[dict[str, Shared], Field(description="By the key that a picture has as its own `shared`.")]


class Status(BaseModel):
    """What the server is doing."""

    model_config = ConfigDict(extra="forbid")

    waiting: int
    running: int
    kept: Annotated[int, Field(description="Jobs that have ended and are kept.")]
    ended: Annotated[dict[str, int], Field(description="How many jobs ended how, since the start.")]
    passes: Annotated[dict[str, int], Field(description="How many passes took so many pictures, since the start.")]


LimitsInfo = Limits

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}


def form(limits: Limits) -> dict[str, Any]:
    """The request body of a job, as OpenAPI has it."""
    fields: dict[str, Any] = {
        "images": _FILES
        | {
            "minItems": 1,
            "maxItems": limits.pictures,
            "description": "The pictures to explain: PNG, JPEG, WebP, GIF, BMP or TIFF.",
        },
        "concept": _FILES
        | {
            "maxItems": limits.concept_pictures,
            "description": "Pictures that show what shall be explained, in place of a target.",
        },
        "model": {"type": "string", "description": "The name of a loaded model; the first where it is left out."},
        "methods": {
            "type": "string",
            "default": "daam,agcam,cdam",
            "description": "Names with commas between, options after a colon: daam,agcam:scores=softmax.",
        },
        "target": {
            "type": "string",
            "default": "",
            "description": "A class's index or name, 'A rather than B', 'probability of A', or a text where the model "
            "reads texts; left out: the predicted class.",
        },
        "lens": {
            "type": "string",
            "enum": ["true", "false"],
            "default": "true",
            "description": "Whether the evidence of every class is wanted too.",
        },
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["images"], "properties": fields},
                "encoding": {name: {"contentType": "image/*"} for name in ("images", "concept")},
            }
        },
    }
