"""Names of a model's outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo

from vitscope.errors import TargetError, nearest
from vitscope.parse import parse_json

_SYNSET = re.compile(r"^n\d{8}\s+")


_LISTED = 20
"""Names, at most, that an error lists."""


@dataclass(frozen=True)
class ClassNames:
    """The outputs' names in order; empty where they are unknown."""

    names: tuple[str, ...] = ()

    @classmethod
    def of_imagenet(cls) -> ClassNames:
        """The 1000 classes of ImageNet-1k, from timm."""
        info = ImageNetInfo()
        return cls(tuple(info.index_to_description(index) for index in range(info.num_classes())))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ClassNames:
        """Read a labels file: a name a line, ImageNet's synset file ("n01440764 tench, ..."), or JSON.

        JSON may be a list of names, or an object from index to name or to [synset, name].

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
            return cls(_from_json(text, file))
        names = tuple(_SYNSET.sub("", line.strip()) for line in text.splitlines() if line.strip())
        if not names:
            raise TargetError(f"{file}: holds no names; write one name a line")
        return cls(names)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """The names that are known, which end; an index has one without end."""
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        """The name of output `index`, or "output 7" where names are unknown."""
        return self.names[index] if 0 <= index < len(self.names) else f"output {index}"

    def index(self, name: str) -> int:
        """The output called `name`; case does not matter, and one of several comma-separated names is enough.

        Raises:
            TargetError: no output, or more than one, is called so.
        """
        if not self.names:
            raise TargetError(f"'{name}': the model's class names are unknown; give a class index, or --labels FILE")
        wanted = name.strip().lower()
        whole = [i for i, known in enumerate(self.names) if known.lower() == wanted]
        part = [i for i, known in enumerate(self.names) if wanted in re.split(r"\s*,\s*", known.lower())]
        found = whole or part
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(f"'{name}' names several classes ({', '.join(map(str, found))}); give the index")
        words = {part.strip() for known in self.names for part in known.split(",")}
        there = f"; there are {', '.join(map(repr, self.names))}" if len(self.names) <= _LISTED else "; give its index"
        raise TargetError(f"no class is called '{name}'{nearest(name, words) or there}")


UNNAMED = ClassNames()
"""No names are known."""


def _from_json(text: str, file: Path) -> tuple[str, ...]:
    try:
        content = parse_json(text)
        if isinstance(content, dict):
            content = [content[str(index)] for index in range(len(content))]
        return tuple(
            str(entry[-1]) if isinstance(entry, Sequence) and not isinstance(entry, str) else str(entry)
            for entry in content
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise TargetError(f"{file}: JSON labels must be a list, or an object from index to name") from error
