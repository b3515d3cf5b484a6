"""From a data set's own classes to a model's outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitscope.datasets.files import read_text
from vitscope.errors import DatasetError, nearest
from vitscope.parse import parse_json

OWN = "own"
_ROW = re.compile(r"(?P<name>.*[^\s,])[\s,]+(?P<index>\d{1,9})")
_SYNSET = re.compile(r"(?P<synset>n\d{8})\s+(?P<names>\S.*)")


@dataclass(frozen=True)
class ClassMap:
    """The model's output of each own class; None where there is none, or where none is known at all."""

    outputs: tuple[int | None, ...] | None = None

    @classmethod
    def of(cls, names: tuple[str, ...], wanted: str | None) -> ClassMap:
        """The map that the option `classes` asks for.

        Args:
            names: the data set's own classes.
            wanted: None; "own" where the model's outputs are these classes in this order; or a file with a row
                "name,index" for each class that the model knows, or a JSON object from name to index.

        Raises:
            DatasetError: not such a file, or a name that is no class.
        """
        if wanted is None:
            return cls()
        if wanted == OWN:
            return cls(tuple(range(len(names))))
        file = Path(wanted)
        outputs = _read(file)
        if unknown := sorted(set(outputs) - set(names)):
            hint = nearest(unknown[0], names) or f"; the classes are {', '.join(names[:5])} ..."
            raise DatasetError(f"{file}: no class is called '{unknown[0]}'{hint}")
        return cls(tuple(outputs.get(name) for name in names))

    def label(self, category: int | None) -> int | None:
        """The output of one own class, or None."""
        return None if self.outputs is None or category is None else self.outputs[category]

    def labels(self, categories: Iterable[int]) -> tuple[int, ...] | None:
        """The outputs of several, each once, ascending; None where none is known at all."""
        if self.outputs is None:
            return None
        found = {self.outputs[category] for category in categories}
        return tuple(sorted(output for output in found if output is not None))


def _read(file: Path) -> dict[str, int]:
    text = read_text(file)
    if file.suffix == ".json":
        try:
            found = parse_json(text)
        except ValueError as error:
            raise DatasetError(f"{file}: is no JSON ({error}); write an object from class name to index") from error
        if not isinstance(found, dict) or not all(type(index) is int and index >= 0 for index in found.values()):
            raise DatasetError(f"{file}: is no object from class name to index; write one")
        return found
    outputs: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = _ROW.fullmatch(line.strip())
        if row is None or row["name"] in outputs:
            raise DatasetError(f"{file}, line {number}: '{line}' is no row of its own 'name,index'; mend it")
        outputs[row["name"]] = int(row["index"])
    return outputs


@dataclass(frozen=True)
class Synsets:
    """ImageNet's classes: their synsets and their names, in the order of a classifier's outputs."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of_imagenet(cls) -> Synsets:
        """The 1000 of ILSVRC2012, from timm."""
        from timm.data import ImageNetInfo  # takes long to import

        info = ImageNetInfo()
        indices = range(info.num_classes())
        return cls(
            tuple(info.index_to_label_name(index) for index in indices),
            tuple(info.index_to_description(index) for index in indices),
        )

    @classmethod
    def read(cls, file: Path) -> Synsets:
        """Read LOC_synset_mapping.txt: "n01440764 tench, Tinca tinca" a line; the line's number is the output.

        Raises:
            DatasetError: no such file, or a row that is not of this form or comes twice.
        """
        rows: dict[str, str] = {}
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            row = _SYNSET.fullmatch(line.strip())
            if row is None or row["synset"] in rows:
                raise DatasetError(f"{file}, line {number}: '{line}' is no synset of its own with its name; mend it")
            rows[row["synset"]] = row["names"]
        return cls(tuple(rows), tuple(rows.values()))

    def index(self, synset: str, where: str) -> int:
        """The output of a synset; DatasetError at `where` if it is none of these."""
        if synset not in self.ids:
            raise DatasetError(f"{where}: '{synset}' is none of the {len(self.ids)} synsets; mend it, or give synsets=")
        return self.ids.index(synset)
