"""Labelled pictures by name and place: a folder a class, or the drawn scenes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vitscope.datasets.files import PICTURES as PICTURES
from vitscope.datasets.scenes import CLASSES, Scenes
from vitscope.errors import ImageError, VitscopeError, nearest
from vitscope.parse import as_unicode


@dataclass(frozen=True)
class LabelledPicture:
    """A picture as a path or an array (H W 3) uint8, its class, and its name."""

    picture: Any
    label: int
    name: str


class Labelled(Protocol):
    """A sequence of labelled pictures.

    Attributes:
        names: of the classes.
        description: what it is, in words that a manifest can keep.
    """

    names: tuple[str, ...]
    description: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> LabelledPicture: ...


class ClassFolders:
    """A folder with a folder a class in it, pictures in these or deeper; classes in the order of their names."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        folder = Path(root)
        if not folder.is_dir():
            raise ImageError(f"{folder}: no such folder; give one with a folder of pictures for each class")
        found = {
            each.name: sorted(
                file for file in each.rglob("*") if file.suffix.lower() in PICTURES and not _hidden(file, folder)
            )
            for each in sorted(folder.iterdir())
            if each.is_dir()
        }
        self.names = tuple(as_unicode(name) for name, files in found.items() if files)
        if not self.names:
            raise ImageError(f"{folder}: holds no folder with pictures; make a folder of pictures for each class")
        self._files = [(file, label) for label, files in enumerate(filter(None, found.values())) for file in files]
        self.description = f"folder {as_unicode(str(folder))}"

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> LabelledPicture:
        file, label = self._files[index]
        return LabelledPicture(file, label, as_unicode(str(file)))


def _hidden(file: Path, root: Path) -> bool:
    """Thumbnails and the like, which would be a class of their own and move the index of every other."""
    return any(part.startswith(".") for part in file.relative_to(root).parts)


class LabelledScenes:
    """Drawn one-object scenes; those of a seed from 1,000,000 on are such as the bundled models were trained on."""

    def __init__(self, count: int = 2000, seed: int = 1_000_000) -> None:
        self._scenes = Scenes(count, "one", seed=seed)
        self.names = CLASSES
        self.description = f"scenes, seed {seed}"

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int, /) -> LabelledPicture:
        scene = self._scenes[index]
        return LabelledPicture(scene.image, scene.labels[0], scene.name)


class First:
    """`count` of another's pictures, evenly spread over it, so that every class keeps its share."""

    def __init__(self, whole: Labelled, count: int) -> None:
        self._whole, self._count = whole, min(count, len(whole))
        self.names, self.description = whole.names, f"{self._count} of {whole.description}"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> LabelledPicture:
        return self._whole[index * len(self._whole) // self._count]


LABELLED: Sequence[str] = ("scenes", "folder")


def labelled(name: str, root: str | os.PathLike[str] | None = None, limit: int | None = None) -> Labelled:
    """The labelled pictures that a user's words mean.

    Args:
        name: "scenes", or "folder" with its `root`.
        root: a folder with a folder a class.
        limit: at most so many, evenly spread.

    Raises:
        VitscopeError: unknown, or a root is missing.
    """
    if name not in LABELLED:
        raise VitscopeError(f"no dataset is called '{name}'{nearest(name, LABELLED)}; there is {', '.join(LABELLED)}")
    if name == "scenes":
        return LabelledScenes() if limit is None else LabelledScenes(limit)
    if root is None:
        raise VitscopeError("the dataset 'folder' needs --root, a folder with a folder of pictures for each class")
    whole = ClassFolders(root)
    return whole if limit is None else First(whole, limit)
