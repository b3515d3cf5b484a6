"""What was run, from a run's manifest; what a manifest does not say is left out, never guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vitscope.bench.store import MANIFEST, SCHEMA_VERSION
from vitscope.datasets import as_reader
from vitscope.errors import VitscopeError
from vitscope.parse import parse_json

LONGEST = 300
"""Characters of one entry that a page shows."""

TOLD = ("classes", "metrics", "skipped")
"""Entries that are long, and shown where they are needed."""


@dataclass(frozen=True, eq=False)
class About:
    """A run's manifest.

    Attributes:
        manifest: as it was read.
        model: its name, "" where it is not written.
        dataset: its name, "" where it is not written.
        names: class number -> name; empty where it is not written.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> About:
        """Of a run's folder.

        Raises:
            VitscopeError: there is no manifest, it is no JSON object, or another version of vitscope's.
        """
        path = folder / MANIFEST
        try:
            read = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise VitscopeError(f"{path} cannot be read; give the folder that `vitscope bench` wrote") from error
        except ValueError as error:
            raise VitscopeError(f"{path} is damaged ({error}); run `vitscope bench --resume` again") from error
        if not isinstance(read, dict):
            raise VitscopeError(f"{path} is no manifest; give the folder that `vitscope bench` wrote")
        if read.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise VitscopeError(
                f"{path} has schema version {read['schema_version']}, and this vitscope reads {SCHEMA_VERSION}; use "
                "the version that wrote it, or a newer one"
            )
        return cls(read)

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self._plan.get("model") or "")

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self._dataset.get("dataset") or "")

    @property
    def names(self) -> dict[int, str]:
        """Class number -> name."""
        found = self.manifest.get("classes")
        return dict(enumerate(map(str, found))) if isinstance(found, list) else {}

    def in_order(self, labels: Sequence[str]) -> list[str]:
        """Labels of methods in the manifest's order, those that it does not name last."""
        written = self._plan.get("methods")
        known = [one for one in written if one in labels] if isinstance(written, list) else []
        return [*dict.fromkeys(known), *(label for label in labels if label not in known)]

    def lines(self) -> list[tuple[str, str]]:
        """Every entry as words, ready to be shown; long lists are cut."""
        return [
            (key, text if len(text) <= LONGEST else f"{text[:LONGEST]} …") for key, text in _flat(self.manifest, "")
        ]

    @property
    def remarks(self) -> list[str]:
        """What must be known before the numbers are read: an unfinished run, images left out."""
        out = []
        if self.manifest.get("status") == "running":
            out.append("The run is not finished; what stands here is of the parts that are there.")
        left_out = self.manifest.get("left_out")
        for preset, count in left_out.items() if isinstance(left_out, Mapping) else ():
            if count:
                out.append(f"{preset}: {count} misclassified images are left out.")
        return out

    @property
    def skipped(self) -> dict[str, str]:
        """Metrics that were asked for and not measured: name -> why."""
        found = self.manifest.get("skipped")
        return {str(name): str(why) for name, why in found.items()} if isinstance(found, Mapping) else {}

    def pictures(self, images: Sequence[str]) -> dict[str, Image.Image]:
        """Those of the images whose files are still where they were; of a set that cannot be opened again, none."""
        facts = self._dataset
        if not self.dataset:
            return {}
        options = facts.get("options") or {}
        words = ",".join(f"{key}={_word(value)}" for key, value in options.items())
        try:
            dataset = as_reader(f"{self.dataset}:{words}" if words else self.dataset).open(
                Path(facts.get("root") or ".")
            )
        except (VitscopeError, OSError):
            return {}
        found = {}
        for image in images:
            try:
                found[image] = dataset.read(image).load()
            except (VitscopeError, OSError, KeyError, IndexError, ValueError):
                continue  # no longer there, or no picture of the set by itself (a mosaic)
        return found

    @property
    def _plan(self) -> Mapping[str, Any]:
        return _mapping(self.manifest.get("plan"))

    @property
    def _dataset(self) -> Mapping[str, Any]:
        return _mapping(self._plan.get("dataset"))


def _mapping(entry: Any) -> Mapping[str, Any]:
    return entry if isinstance(entry, Mapping) else {}


def _flat(entry: Any, key: str) -> Iterator[tuple[str, str]]:
    """Nested entries as "a / b" -> words."""
    if isinstance(entry, Mapping) and entry:
        for name, value in entry.items():
            if name in TOLD:
                continue
            yield from _flat(value, f"{key} / {name}" if key else str(name))
    elif isinstance(entry, list) and any(isinstance(one, Mapping) for one in entry):
        for number, one in enumerate(entry, start=1):
            yield from _flat(one, f"{key} / {_mapping(one).get('name') or number}")
    elif isinstance(entry, list):
        yield key, ", ".join(map(_word, entry))
    else:
        yield key, _word(entry)


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
