"""From orders that one pass can answer to the results of each: one call of the explainer, cut apart again.

Where the pass fails, or a method in it, every picture is explained by itself, so that each failure is its own
picture's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscope.attribution import Attribution, Explanation, Subject
from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.outcome import Progress, refusals
from vitscope.report import Lens, content_of, lens_of
from vitscope.serve.job import StoppedError
from vitscope.serve.orders import Order, concept_of, together
from vitscope.targets import Class

Answer = bytes | Exception
"""A result as JSON, or why there is none."""


@dataclass(frozen=True)
class Part:
    """What was found of pictures of one order."""

    explanation: Explanation
    lens: Lens | None


@dataclass(frozen=True)
class Answerer:
    """Answers the orders of one model.

    Attributes:
        name: the model's, as clients know it.
        explainer: of the model.
        max_forwards: of a picture, for methods that sample.
    """

    name: str
    explainer: Explainer
    max_forwards: int

    def answers(self, orders: Sequence[Order], progress: Progress, go_on: Callable[[], object]) -> Iterator[Answer]:
        """One answer an order, in their order.

        Args:
            orders: of one kind, or a single one.
            progress: as for the explainer.
            go_on: is called between passes, and raises where nobody waits any more.
        """
        try:
            ready = [concept_of(self.explainer, order) for order in orders]
            parts = self._explained(ready, progress)
        except StoppedError:
            raise
        except Exception as error:  # whatever it is, it may be one picture's
            if sum(map(len, orders)) == 1:
                yield error
                return
            parts = None
        if parts is not None and (sum(map(len, orders)) == 1 or not self._failing(orders[0], parts)):
            yield from (self._result([part]) for part in parts)
            return
        for order in orders:
            yield self._one_by_one(order, progress, go_on)

    def _one_by_one(self, order: Order, progress: Progress, go_on: Callable[[], object]) -> Answer:
        """One order, a pass a picture."""
        parts: list[Part] = []
        try:
            ready = concept_of(self.explainer, order)
            for image in range(len(ready)):
                go_on()
                parts += self._explained([ready.at(image)], progress)
        except StoppedError:
            raise
        except VitscopeError as error:
            return VitscopeError(f"{order.batch.names[len(parts)]}: {error}") if len(order) > 1 else error
        except Exception as error:
            return error
        return self._result(parts)

    def _explained(self, orders: Sequence[Order], progress: Progress) -> list[Part]:
        """All in one pass, a part an order.

        Raises:
            VitscopeError: the pass as a whole fails.
        """
        batch = orders[0].batch if len(orders) == 1 else type(orders[0].batch).join([order.batch for order in orders])
        explanation = self.explainer(
            batch,
            orders[0].question.methods,
            together(list(orders)),
            strict=False,
            max_forwards=self.max_forwards,
            progress=progress,
        )
        lens = lens_of(self.explainer, batch) if orders[0].lens else None
        parts, start = [], 0
        for order in orders:
            images = slice(start, start + len(order))
            start = images.stop
            asked = explanation.subject.asked
            if isinstance(order.question.aim, Class):
                asked = order.question.aim.describe(self.explainer.names)
            cut = _subject(explanation.subject, images, asked)
            parts.append(Part(_explanation(explanation, images, cut), None if lens is None else _lens(lens, images)))
        return parts

    def _failing(self, order: Order, parts: Sequence[Part]) -> bool:
        """Whether a method failed that could have succeeded on some of the pictures."""
        aim = order.question.aim
        hopeless = refusals(self.explainer.anatomy, order.question.chosen.methods, [aim] if aim else [])
        return any(part.explanation.failures.keys() - hopeless.keys() for part in parts)

    def _result(self, parts: Sequence[Part]) -> Answer:
        """A job's result of its pictures, in one part or one a picture."""
        if not any(part.explanation.attributions for part in parts):
            return VitscopeError(next(iter(parts[0].explanation.failures.values())))
        count = sum(len(part.explanation) for part in parts)
        contents = [content_of(part.explanation, part.lens, count) for part in parts]
        records = [record for content in contents for record in content["pictures"]]
        for record in records:
            record["provenance"] = self._provenance(record["provenance"])
        shared = {key: common for content in contents for key, common in content["shared"].items()}
        return json.dumps(
            {"pictures": records, "shared": shared}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()

    def _provenance(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Without the server's folders."""
        weights = known["model"].get("weights")
        own = {"model": self.name, "weights": weights and Path(weights).name}
        return {**known, "model": {**known["model"], **own}}


def _subject(subject: Subject, images: slice, asked: str) -> Subject:
    return dataclasses.replace(
        subject,
        batch=subject.batch.part(images),
        geometries=subject.geometries[images],
        logits=subject.logits[images],
        target=None if subject.target is None else subject.target[images],
        asked=asked,
    )


def _explanation(explanation: Explanation, images: slice, subject: Subject) -> Explanation:
    def cut(one: Attribution) -> Attribution:
        blocks = None if one.blocks is None else one.blocks[images]
        return dataclasses.replace(one, values=one.values[images], blocks=blocks, heads=None, subject=subject)

    return dataclasses.replace(
        explanation,
        subject=subject,
        attributions={label: cut(one) for label, one in explanation.attributions.items()},
    )


def _lens(lens: Lens, images: slice) -> Lens:
    evidence = lens.evidence
    if evidence is not None:
        subject = _subject(evidence.subject, images, evidence.subject.asked)
        evidence = dataclasses.replace(
            evidence, subject=subject, effects=evidence.effects[images], features=evidence.features[images]
        )
    return Lens(
        evidence,
        None if lens.classes is None else lens.classes[images],
        None if lens.maps is None else lens.maps[images],
        lens.reason,
    )
