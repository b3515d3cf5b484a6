"""What one request, and all of them together, may take of the server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from PIL import Image
from pydantic import Field

from vitscope.errors import VitscopeError


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; the numbers of `GET /api/limits`."""

    body_bytes: Annotated[int, Field(description="Of a request's body.")] = 32 * 2**20
    body_seconds: Annotated[float, Field(description="For a request's body to arrive.")] = 60.0
    picture_pixels: Annotated[int, Field(description="Of a picture, by its header.")] = 50_000_000
    picture_aspect: Annotated[int, Field(description="How many times its shorter side a picture's longer may be.")] = 50
    pictures: Annotated[int, Field(description="Pictures to explain, in a request.")] = 8
    concept_pictures: Annotated[int, Field(description="Pictures that show a concept, in a request.")] = 16
    methods: Annotated[int, Field(description="Methods in a request.")] = 64
    max_forwards: Annotated[
        int, Field(description="Forwards of a picture for a method that samples altered ones, and samples of any.")
    ] = 512
    jobs_waiting: Annotated[int, Field(description="Jobs that wait, or whose pictures are being read.")] = 32
    job_seconds: Annotated[float, Field(description="For a job to wait and run.")] = 120.0
    results_kept: Annotated[int, Field(description="Finished jobs that are kept, the newest.")] = 64
    results_bytes: Annotated[int, Field(description="Of all results that are kept.")] = 256 * 2**20
    result_seconds: Annotated[float, Field(description="For which a finished job is kept.")] = 600.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise VitscopeError(f"the limit {field.name} is {getattr(self, field.name)}; give a number above 0")
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and self.picture_pixels > most:
            raise VitscopeError(
                f"the limit picture_pixels is {self.picture_pixels}; Pillow opens no more than {most} safely"
            )
