"""Reading stored maps, a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vitscope.bench.store import parts_in
from vitscope.errors import VitscopeError


@dataclass(frozen=True)
class StoredMap:
    """One map as it was written.

    Attributes:
        image: its path.
        method: its label.
        target: the explained class, or None where the target is no class.
        prediction: the class with the highest logit, or None.
        probability: of the explained class, or None; also of a head without probabilities.
        target_logit: its logit, or None.
        logits: class -> logit, of those that were kept.
        values: (rows cols); None where there is an error.
        error: why there is no map, or None.
    """

    image: str
    method: str
    target: int | None
    prediction: int | None
    probability: float | None
    target_logit: float | None
    logits: Mapping[int, float]
    values: NDArray[np.floating[Any]] | None
    error: str | None


COLUMNS = {one.name for one in fields(StoredMap)} | {"rows", "cols", "classes"}
"""Of a part."""


def read_maps(folder: str | os.PathLike[str], methods: Sequence[str] | None = None) -> Iterator[StoredMap]:
    """The maps of a folder, one after another, by image and method within a part; a few are in memory at a time.

    Args:
        folder: that `store_maps` wrote.
        methods: labels; None for all.

    Raises:
        VitscopeError: the folder holds no maps, or a part is damaged.
    """
    for file in parts_in(folder):
        try:
            with pq.ParquetFile(file) as part:
                if not COLUMNS.issubset(part.schema_arrow.names):
                    raise VitscopeError(
                        f"{file}: holds no maps; give a folder that vitscope explain --store parquet wrote"
                    )
                for batch in part.iter_batches(batch_size=256):
                    for place, record in enumerate(batch.drop_columns(["values"]).to_pylist()):
                        if methods is None or record["method"] in methods:
                            yield _stored(record, batch.column("values")[place], file)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise VitscopeError(f"{file}: cannot be read ({error}); delete it and run again with --resume") from error


def _stored(record: Mapping[str, Any], values: Any, file: Path) -> StoredMap:
    numbers = None
    try:
        if values.is_valid:
            numbers = values.values.to_numpy(zero_copy_only=False).reshape(record["rows"], record["cols"])
        logits = dict(zip(record["classes"] or (), record["logits"] or (), strict=True))
    except (AttributeError, TypeError, ValueError) as error:
        raise VitscopeError(
            f"{file}: a map or its logits are not whole ({error}); delete it and run again with --resume"
        ) from error
    return StoredMap(
        record["image"],
        record["method"],
        record["target"],
        record["prediction"],
        record["probability"],
        record["target_logit"],
        logits,
        numbers,
        record["error"],
    )
