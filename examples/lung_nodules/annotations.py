"""Reading the radiologists' XML of LIDC-IDRI: each reader's outlines of a nodule, and what they say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from vitscope.errors import DatasetError

CHARACTERISTICS = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)
"""As the schema names them. All run from 1 to 5 but calcification (1 to 6, kinds; 6: absent) and internal structure
(1 to 4, kinds)."""

_HIGHEST = dict.fromkeys(CHARACTERISTICS, 5) | {"calcification": 6, "internalStructure": 4}


@dataclass(frozen=True)
class Contour:
    """One outline in one slice.

    Attributes:
        slice: SOPInstanceUID of the image.
        points: (column, row) of the pixels just OUTSIDE of what is outlined, in order.
        inclusion: whether it outlines nodule, or a hole in it.
    """

    slice: str
    points: tuple[tuple[int, int], ...]
    inclusion: bool


@dataclass(frozen=True)
class Reading:
    """What one reader made of one nodule.

    Attributes:
        reader: which of the scan's readers, from 0.
        name: the reader's own name of the nodule.
        ratings: characteristic -> number, all nine.
        contours: one or more a slice.
    """

    reader: int
    name: str
    ratings: Mapping[str, int]
    contours: tuple[Contour, ...]


def annotations_below(root: Path) -> tuple[dict[str, Path], list[str]]:
    """SeriesInstanceUID -> the XML file that annotates it, below `root`; and why others cannot be used, a line each.

    Other XML, such as that of LIDC-IDRI's radiographs, is passed over, and so is a copy of a file.
    """
    found: dict[str, Path] = {}
    failures: list[str] = []
    for file in sorted(root.rglob("*.xml")):
        try:
            tree = _parse(file)
            if _tag(tree) != "LidcReadMessage":
                continue
            first = found.setdefault(_text(tree, "SeriesInstanceUid", file), file)
            if first != file and first.read_bytes() != file.read_bytes():
                raise DatasetError(f"{file}: annotates the same series as {first}; keep one of them")
        except DatasetError as error:
            failures.append(str(error))
    return found, failures


def read_annotations(file: Path) -> tuple[Reading, ...]:
    """The readings of nodules of 3 mm and more: those that have characteristics and outlines.

    Marks of smaller nodules (one point, no characteristics) and of what is no nodule are passed over, as they say
    nothing that can be learned.

    Raises:
        DatasetError: no complete XML, or not in LIDC's schema.
    """
    tree = _parse(file)
    readings = []
    for reader, session in enumerate(_children(tree, "readingSession")):
        for nodule in _children(session, "unblindedReadNodule"):
            contours = tuple(_contours(nodule, file))
            ratings = _ratings(nodule, file)
            if ratings and contours:
                readings.append(Reading(reader, _text(nodule, "noduleID", file), ratings, contours))
    return tuple(readings)


def _contours(nodule: ElementTree.Element, file: Path) -> Iterator[Contour]:
    for roi in _children(nodule, "roi"):
        points = tuple(
            (_number(edge, "xCoord", file), _number(edge, "yCoord", file)) for edge in _children(roi, "edgeMap")
        )
        if len(points) >= 3:
            included = _text(roi, "inclusion", file).upper()
            if included not in ("TRUE", "FALSE"):
                raise DatasetError(f"{file}: <inclusion> is {included!r}, not TRUE or FALSE; download it again")
            yield Contour(_text(roi, "imageSOP_UID", file), points, included == "TRUE")


def _ratings(nodule: ElementTree.Element, file: Path) -> dict[str, int]:
    """All nine, or none: small nodules have no characteristics, or empty ones."""
    said = next(_children(nodule, "characteristics"), None)
    if said is None or not any((child.text or "").strip() for child in said):
        return {}
    ratings = {name: _number(said, name, file) for name in CHARACTERISTICS}
    for name, value in ratings.items():
        if not 0 <= value <= _HIGHEST[name]:
            raise DatasetError(f"{file}: {name} is {value}, beyond {_HIGHEST[name]}; download it again")
    return ratings if all(ratings.values()) else {}  # 0: not rated


class _Plain(ElementTree.TreeBuilder):
    """Refuses a document type, which is where entities that grow without end are declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DatasetError("declares a document type; annotations have none, so this file is not trusted")


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(file.read_bytes(), ElementTree.XMLParser(target=_Plain()))
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{file}: is no complete XML ({reason}); copy or download it again") from error


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]  # with or without the namespace, which the files spell in two ways


def _children(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _tag(child) == tag)


def _text(element: ElementTree.Element, tag: str, file: Path) -> str:
    for child in element.iter():
        if _tag(child).lower() == tag.lower() and (child.text or "").strip():
            return (child.text or "").strip()
    raise DatasetError(f"{file}: no <{tag}> in its <{_tag(element)}>; expected LIDC's schema")


def _number(element: ElementTree.Element, tag: str, file: Path) -> int:
    text = _text(element, tag, file)
    try:
        return int(text)
    except ValueError:
        raise DatasetError(f"{file}: <{tag}> is {text!r}, not a whole number; download it again") from None
