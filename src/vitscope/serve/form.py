"""A request's form, read: which model, which files, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import BinaryIO

import torch
from starlette.datastructures import FormData, UploadFile

from vitscope.explainer import Explainer
from vitscope.images import Batch
from vitscope.serve.errors import RefusedError
from vitscope.serve.limits import Limits
from vitscope.serve.orders import Order, question_of
from vitscope.serve.uploads import label_of, read_upload

FILES, TEXTS = ("images", "concept"), ("model", "methods", "target", "lens")
FIELD_BYTES = 16 * 2**10
"""Of a field that is no file."""

_SWITCH = {"": True, "true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Form:
    """The fields of a form.

    Attributes:
        model: a name that is loaded.
        images: label and content of each.
        concept: label and content of each.
        methods, target: in words; "" where they were left out.
        lens: whether it is wanted.
    """

    model: str
    images: list[tuple[str, BinaryIO]]
    concept: list[tuple[str, BinaryIO]] = field(default_factory=list)
    methods: str = ""
    target: str = ""
    lens: bool = True


def read_form(data: FormData, models: Mapping[str, Explainer], limits: Limits) -> Form:
    """The form, checked for its fields and their number.

    Raises:
        RefusedError: an unknown field, one too many, one that is missing, or a model that is not loaded.
    """
    files: dict[str, list[tuple[str, BinaryIO]]] = {name: [] for name in FILES}
    texts: dict[str, str] = {}
    for name, value in data.multi_items():
        if name in files and isinstance(value, UploadFile):
            if value.filename or value.size:  # what a browser sends for an empty choice of files has neither
                files[name].append((label_of(value.filename, len(files[name]) + 1), value.file))
        elif name in files:
            if value:
                raise _wrong(f"the field {name} holds a text; send a file")
        elif name not in TEXTS:
            raise _wrong(f"there is no field '{name[:60]}'; the fields are {', '.join(FILES + TEXTS)}")
        elif isinstance(value, UploadFile):
            raise _wrong(f"the field {name} is a text, not a file")
        elif name in texts:
            raise _wrong(f"the field {name} is there twice")
        else:
            texts[name] = value
    _count(files, limits)
    lens = texts.get("lens", "").strip().lower()
    if lens not in _SWITCH:
        raise _wrong("the field lens is true or false")
    model = texts.get("model", "") or next(iter(models))
    if model not in models:
        raise _wrong(f"no model '{model[:200]}' is loaded; there is {', '.join(models)}")
    return Form(
        model, files["images"], files["concept"], texts.get("methods", ""), texts.get("target", ""), _SWITCH[lens]
    )


def order_of(form: Form, explainer: Explainer, limits: Limits) -> Order:
    """What waits in the queue: the question checked, then the pictures read.

    Raises:
        VitscopeError: what is asked does not exist, or a picture cannot be read.
    """
    question = question_of(explainer, form.methods, form.target, bool(form.concept), limits)
    read = [read_upload(file, label, explainer.preprocessing, limits) for label, file in (*form.images, *form.concept)]
    images, concept = read[: len(form.images)], read[len(form.images) :]
    return Order(
        form.model,
        Batch.join(images),
        question,
        torch.cat([one.tensor for one in concept]) if concept else None,
        form.lens,
    )


def _count(files: Mapping[str, list[tuple[str, BinaryIO]]], limits: Limits) -> None:
    if not files["images"]:
        raise _wrong("there is no picture; send files in the field images")
    for name, most in (("images", limits.pictures), ("concept", limits.concept_pictures)):
        if len(files[name]) > most:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{len(files[name])} files in the field {name}; send {most} at most, the others in further requests",
            )


def _wrong(line: str) -> RefusedError:
    return RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, line)
