"""A worker holds the model once and computes parts; the same part gives the same rows on any worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch

from vitscope.bench.measure import Row, RowBuffer, measure
from vitscope.bench.plan import Part, Plan
from vitscope.bench.tasks import Group, Task
from vitscope.bench.traced import Shot, Traced, key_of_inputs, shot_of, trace
from vitscope.bench.truth import OF_MASKS
from vitscope.bench.whole import measure_whole
from vitscope.datasets import Dataset
from vitscope.errors import text_of
from vitscope.explainer import Explainer
from vitscope.images import Batch, ReadAhead, Unread
from vitscope.methods import Method
from vitscope.trace.chunks import out_of_memory

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("target", pa.int64()),
        ("prediction", pa.int64()),
        ("error", pa.string()),
    ]
)

Advance = Callable[[int], object]
"""Is told how many pictures were done since the last call."""
Say = Callable[[str], object]
"""Is told what a person should know, in one line."""


@dataclass(frozen=True)
class Computed:
    """A part's rows, and what is counted of them.

    Attributes:
        table: the rows, sorted by image, method and metric.
        facts: ready for JSON; those of several parts are added up.
    """

    table: pa.Table
    facts: Mapping[str, Any]


def halving(
    names: Sequence[str],
    size: int,
    compute: Callable[[Sequence[str], bool], None],
    fail: Callable[[str, str], None],
    advance: Advance,
    say: Say,
) -> int:
    """Run over pictures in batches; one that fails is cut, so that each failure is its own picture's.

    Out of memory halves the batch, from then on; any other failure sends the pictures of that batch one by one.

    Args:
        names: of the pictures.
        size: of a batch.
        compute: does a batch; is told whether it is of one picture, which is then the one that fails.
        fail: is told of a picture that fails by itself.
        advance, say: see above.

    Returns:
        the size that the last batch had room for.
    """
    start = 0
    while start < len(names):
        batch = names[start : start + size]
        reason = _reason(compute, batch)
        if reason is None:
            pass
        elif len(batch) > 1 and reason[0]:
            size = len(batch) // 2
            say(f"out of memory with {len(batch)} pictures in a batch; going on with {size}")
            continue
        elif len(batch) == 1:
            fail(batch[0], reason[1])
        else:
            for name in batch:
                alone = _reason(compute, [name])
                if alone is not None:
                    fail(name, alone[1])
        start += len(batch)
        advance(len(batch))
    return size


def _reason(compute: Callable[[Sequence[str], bool], None], batch: Sequence[str]) -> tuple[bool, str] | None:
    """Whether memory was lacking, and the error; None where there was none."""
    try:
        compute(batch, len(batch) == 1)
    except Exception as error:
        full, text = out_of_memory(error), text_of(error)
    else:
        return None
    if torch.cuda.is_available():  # here the failed batch's tensors are no longer held by the exception
        torch.cuda.empty_cache()
    return full, "memory does not hold this one picture; use a smaller model or another device" if full else text


class Worker:
    """Computes the parts of one plan.

    Attributes:
        plan: it.
        batch_size: pictures in a pass; halved where memory does not hold them.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        explainer: Explainer | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        readers: int | None = 0,
        say: Say = lambda line: None,
    ) -> None:
        """Load model and data set.

        Args:
            plan: what is computed.
            explainer: of the plan's model, where it is at hand; else it is loaded by name.
            device: for a model that is loaded.
            batch_size: pictures in a pass.
            readers: processes that read pictures, as of `ReadAhead`.
            say: is told what a person should know.

        Raises:
            VitscopeError: model or data are not there, or others than the plan's.
        """
        self.plan, self.batch_size, self._say = plan, batch_size, say
        self._explainer = explainer or plan.load(device)
        self._dataset: Dataset = plan.open()
        self._methods: dict[str, Method] = plan.chosen_methods()
        self._reader = ReadAhead(self._shot, workers=readers, ahead=batch_size, say=say)

    def expect(self, parts: Sequence[Part]) -> None:
        """Begin to read these parts' pictures, which will be computed in this order."""
        self._reader.expect([name for part in parts for name in self._dataset.ids[part.start : part.stop]])

    def close(self) -> None:
        """End what reads."""
        self._reader.close()

    @cached_property
    def _groups(self) -> list[Group]:
        return self.plan.groups()

    def compute(self, part: Part, advance: Advance = lambda done: None) -> Computed:
        """The rows of a part; whatever fails at a picture is a row, and so is a picture that cannot be read."""
        rows = RowBuffer()
        kept: dict[int, list[Traced]] = {number: [] for number, group in enumerate(self._groups) if group.of_part}

        def compute(names: Sequence[str], alone: bool) -> None:
            fresh = RowBuffer()
            if shots := list(self._read(names, fresh)):
                traces = [self._one(group, shots, fresh, alone) for group in self._groups]
                for number, found in kept.items():
                    found.append(traces[number].light())
            rows.take(fresh)

        names = self._dataset.ids[part.start : part.stop]
        self.batch_size = halving(
            names, self.batch_size, compute, lambda name, why: self._fail(rows, name, why), advance, self._say
        )
        for number, found in kept.items():
            measure_whole(self._explainer, self._methods, self._groups[number], found, rows)
        facts = {
            "images": len(part),
            "failed": len(rows.failed),
            "left_out": {preset: len(images) for preset, images in rows.left_out.items()},
        }
        return Computed(table_of(rows.rows), facts)

    def _one(self, group: Group, shots: Sequence[Shot], rows: RowBuffer, alone: bool) -> Traced:
        key = key_of_inputs(group.preprocessing)
        device = next(self._explainer.anatomy.model.parameters()).device
        batch = Batch.join([shot.inputs[key] for shot in shots], device)
        traced = trace(self._explainer, self._methods, group, shots, batch, self.plan.seed)
        measure(self._explainer, self._methods, group, traced, rows, alone)
        return traced

    def _read(self, names: Sequence[str], rows: RowBuffer) -> Iterator[Shot]:
        """The pictures that can be read, with their truth."""
        for name, found in zip(names, self._reader.take(names), strict=True):
            if isinstance(found, Unread):
                self._fail(rows, name, found.reason)
            else:
                yield found

    def _shot(self, name: str) -> Shot:
        """A picture with the truth that the metrics declare, as all groups take it; what files hold may be raised."""
        masks = any(task.facts.truth in OF_MASKS for group in self._groups for task in group.batched)
        fields = [group.preprocessing for group in self._groups]
        return shot_of(self._dataset.read(name).open(), self._explainer.preprocessing, fields, masks)

    @property
    def _tasks(self) -> list[Task]:
        return [task for group in self._groups for task in group.tasks]

    def _fail(self, rows: RowBuffer, image: str, reason: str) -> None:
        rows.fail(image, self._methods, self._tasks, reason)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """The rows, sorted."""
    columns = list(zip(*sorted(rows, key=lambda row: row[:3]), strict=True)) or [()] * len(SCHEMA)
    return pa.Table.from_arrays(
        [pa.array(column, type=one.type, from_pandas=False) for column, one in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
