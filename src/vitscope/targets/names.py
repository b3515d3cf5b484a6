"""Names of a model's outputs."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscope.errors import TargetError, nearest
from vitscope.parse import parse_json

_SYNSET = re.compile(r"n\d{8}")

_LISTED = 20
"""Names, at most, that an error lists."""

_SUGGESTED = 5
"""Names with the same words, at most, that an error offers."""


@dataclass(frozen=True)
class ClassNames:
    """The outputs' names in order; empty where they are unknown.

    Attributes:
        names: one an output.
        synsets: WordNet's numbers of these, such as "n02123045", where they are known.
    """

    names: tuple[str, ...] = ()
    synsets: tuple[str, ...] = ()

    @classmethod
    def of_imagenet(cls) -> ClassNames:
        """The 1000 classes of ImageNet-1k, from timm."""
        from timm.data import ImageNetInfo  # takes long to import

        info = ImageNetInfo()
        indices = range(info.num_classes())
        return cls(
            tuple(info.index_to_description(index) for index in indices),
            tuple(info.index_to_label_name(index) for index in indices),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ClassNames:
        """Read a labels file: a name a line, ImageNet's synset file ("n01440764 tench, ..."), JSON or a Python literal.

        The last two may be a list of names, or an object from index to name or to [synset, name].

        Raises:
            TargetError: no such file, or not one of these forms.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
            raise TargetError(f"{file}: cannot read the labels ({reason}); check --labels") from error
        if file.suffix == ".json":
            rows = _from_object(text, parse_json, file)
        elif (text.lstrip()[:1], text.rstrip()[-1:]) in {("{", "}"), ("[", "]")}:
            rows = _from_object(text, _literal, file)
        else:
            rows = [_row_of_line(line.strip()) for line in text.splitlines() if line.strip()]
        if not rows:
            raise TargetError(f"{file}: holds no names; write one name a line")
        synsets = tuple(synset for synset, _ in rows)
        return cls(tuple(name for _, name in rows), synsets if all(synsets) else ())

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """The names that are known, which end; an index has one without end."""
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        """The name of output `index`, or "output 7" where names are unknown."""
        return self.names[index] if 0 <= index < len(self.names) else f"output {index}"

    def index(self, name: str) -> int:
        """The output called `name`, or by one of its comma-separated names, or its synset ("n02123045").

        A name in exact case goes before others; where none is, case does not matter.

        Raises:
            TargetError: no output, or more than one, is called so.
        """
        if not self.names:
            raise TargetError(f"'{name}': the model's class names are unknown; give a class index, or --labels FILE")
        wanted = name.strip()
        if wanted in self.synsets:
            return self.synsets.index(wanted)
        found = self._called(wanted)
        if len(found) == 1:
            return found[0]
        if found:
            several = "; ".join(f"{index}: {self.names[index]}" for index in found)
            raise TargetError(f"'{name}' names several classes ({several}); give the index")
        raise TargetError(f"no class is called '{name}'{self._suggestions(wanted)}")

    def _called(self, wanted: str) -> list[int]:
        """The outputs with this whole name, else with it among their names, else with it in any case."""
        parts = [_parts(known) for known in self.names]
        whole = [i for i, known in enumerate(self.names) if known == wanted]
        exact = whole or [i for i, names in enumerate(parts) if wanted in names]
        folded = wanted.lower()
        return exact or [
            i
            for i, (known, names) in enumerate(zip(self.names, parts, strict=True))
            if folded in (known.lower(), *map(str.lower, names))
        ]

    def _suggestions(self, wanted: str) -> str:
        """Offer the names with these words, else those that are spelt alike, else all where they are few."""
        names = list(dict.fromkeys(part for known in self.names for part in _parts(known)))
        words = _words(wanted)
        if sharing := [part for part in names if words and words <= _words(part)][:_SUGGESTED]:
            return f"; did you mean {', '.join(sharing)}?"
        there = f"; there are {', '.join(map(repr, self.names))}" if len(self.names) <= _LISTED else "; give its index"
        return nearest(wanted, names) or there


UNNAMED = ClassNames()
"""No names are known."""


Row = tuple[str, str]
"""A synset, "" where there is none, and a name."""


def _from_object(text: str, parse: Callable[[str], Any], file: Path) -> list[Row]:
    try:
        content = parse(text)
        if isinstance(content, dict):
            found = {str(index): entry for index, entry in content.items()}
            content = [found[str(index)] for index in range(len(content))]
        return [_row_of(entry) for entry in content]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise TargetError(
            f"{file}: labels in JSON or as a Python literal must be a list, or an object from index to name"
        ) from error


def _literal(text: str) -> Any:
    """The content of JSON, or of a Python literal.

    Raises:
        ValueError: it is neither.
    """
    with suppress(ValueError):
        return parse_json(text)
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def _row_of(entry: Any) -> Row:
    """Of a name, or of a list of a synset and a name."""
    if not isinstance(entry, list | tuple):
        return "", str(entry)
    synset = str(entry[0])
    return synset if len(entry) > 1 and _SYNSET.fullmatch(synset) else "", str(entry[-1])


def _row_of_line(line: str) -> Row:
    """Of "tench, Tinca tinca" or "n01440764 tench, Tinca tinca"."""
    synset, *name = line.split(maxsplit=1)
    return (synset, name[0]) if name and _SYNSET.fullmatch(synset) else ("", line)


def _parts(name: str) -> list[str]:
    """The names that a name with commas holds."""
    return [part.strip() for part in name.split(",")]


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.lower()))
