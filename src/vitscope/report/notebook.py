"""Results as pages without a folder: in a notebook, where the whole page lies in a frame of its own, or as text."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import numpy as np

from vitscope.arrays import as_array
from vitscope.attribution import Attribution, Explanation, Subject
from vitscope.errors import ImageError, ModelError
from vitscope.evidence import Evidence
from vitscope.report.lens import Lens
from vitscope.report.page import report_page
from vitscope.report.record import content_of

MOST = 8
"""Pictures in a frame, at most: a notebook keeps what it shows, and loads it each time that it is opened."""

HEIGHT = 780
"""Of a frame, in pixels: a picture with its map and what belongs to it; the page scrolls within."""

_CLOSE = 1e-2  # of a normalised pixel: less than a grey level; of the largest output: less than two models differ by


class Page(str):
    """A page as text, which a notebook shows as the page where it is a cell's last line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<a page of {len(self.encode()) / 1e6:.1f} MB; write it to a file that ends in .html>"

    def _repr_html_(self) -> str:
        return frame(self)


def explanation_page(explanation: Explanation, evidence: Evidence | None = None) -> Page:
    """All of an explanation on one page, with the class lens where evidence is given.

    Raises:
        ImageError: the evidence is of other pictures.
        ModelError: it is of another model.
    """
    lens = Lens(reason="it needs the evidence of these pictures: explanation.html(explainer.evidence(images))")
    if evidence is not None:
        check_same(explanation.subject, evidence.subject)
        lens = _lens(evidence)
    content = content_of(explanation, lens)
    return Page(report_page(content["pictures"], content["shared"]))


def explanation_frame(explanation: Explanation) -> str:
    """An explanation as a notebook shows it: its first pictures, and how many are left out."""
    few = replace(
        explanation,
        subject=_first(explanation.subject),
        attributions={label: _part(one) for label, one in explanation.attributions.items()},
    )
    return frame(explanation_page(few), _left_out(len(explanation), "html() of the explanation has them all"))


def evidence_frame(evidence: Evidence) -> str | None:
    """Evidence as a notebook shows it: the class lens alone; None where there are no classes to choose from."""
    if not evidence.subject.classifier:
        return None
    few = replace(
        evidence,
        subject=_first(evidence.subject),
        effects=evidence.effects[:MOST],
        features=evidence.features[:MOST],
    )
    page = explanation_page(Explanation(few.subject, {}, {}), few)
    return frame(page, _left_out(len(evidence), "ask for the evidence of fewer"))


def frame(page: str, caption: str = "") -> str:
    """A whole page within another one: its script runs, and reaches nothing outside of the frame."""
    below = f'<p style="font-size:0.9em;margin:0.3em 0">{escape(caption)}</p>' if caption else ""
    return (
        '<iframe title="vitscope" sandbox="allow-scripts" width="100%" '
        f'height="{HEIGHT}" style="width:100%;height:{HEIGHT}px;border:1px solid #8886;border-radius:6px" '
        f'srcdoc="{escape(page)}"></iframe>{below}'
    )


def check_same(subject: Subject, other: Subject) -> None:
    """Hold evidence against an explanation that it shall stand beside.

    Raises:
        ImageError: it is of other pictures, or of the same prepared otherwise.
        ModelError: it is of another model.
    """
    advice = "give what the explainer of this explanation says of its pictures: explainer.evidence(images)"
    if len(subject) != len(other):
        raise ImageError(f"the evidence is of {len(other)} images and the explanation of {len(subject)}; {advice}")
    for index, (here, there) in enumerate(zip(subject.geometries, other.geometries, strict=True)):
        if here != there:
            sizes = " and ".join(" x ".join(map(str, one.original)) for one in (there, here))
            why = (
                f"they are {sizes} pixels" if here.original != there.original else "its pixels were prepared otherwise"
            )
            raise ImageError(f"the evidence of image {index} is of another picture ({why}); {advice}")
    mine, theirs = as_array(subject.batch.tensor), as_array(other.batch.tensor)
    apart = np.abs(mine - theirs).max(axis=(1, 2, 3)) > _CLOSE if mine.shape == theirs.shape else np.ones(1)
    if apart.any():
        raise ImageError(f"the evidence of image {int(apart.argmax())} is of another picture; {advice}")
    outputs, others = as_array(subject.logits), as_array(other.logits)
    if outputs.shape != others.shape:
        raise ModelError(
            f"the evidence is of a model with {others.shape[1]} outputs, the explanation of one with "
            f"{outputs.shape[1]}; {advice}"
        )
    if np.abs(outputs - others).max() > _CLOSE * np.abs(outputs).max():
        raise ModelError(f"the evidence is of another model: its outputs for these images are others; {advice}")


def _lens(evidence: Evidence) -> Lens:
    return Lens(evidence=evidence) if evidence.subject.classifier else Lens(reason="the model has no classifier")


def _first(subject: Subject) -> Subject:
    batch = subject.batch
    return replace(
        subject,
        batch=batch.part(slice(MOST)),
        geometries=subject.geometries[:MOST],
        logits=subject.logits[:MOST],
        target=None if subject.target is None else subject.target[:MOST],
        each_asked=subject.each_asked[:MOST],
    )


def _part(attribution: Attribution) -> Attribution:
    return replace(
        attribution,
        values=attribution.values[:MOST],
        blocks=None if attribution.blocks is None else attribution.blocks[:MOST],
        heads=None if attribution.heads is None else attribution.heads[:MOST],
        subject=_first(attribution.subject),
    )


def _left_out(count: int, where: str) -> str:
    if count <= MOST:
        return ""
    return f"The first {MOST} of {count} pictures are shown, {count - MOST} are left out; {where}."
