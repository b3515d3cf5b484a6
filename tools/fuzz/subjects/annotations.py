"""Lists, tables, XML, JSON and MATLAB's files of data sets, and files of class names."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random

from tools.fuzz.judge import Case
from tools.fuzz.mutate import WORDS, encoded, json_text, some_bytes, some_json, some_text
from tools.fuzz.subjects.folders import SOURCES, Folders

from vitscope.datasets import ClassMap, Synsets
from vitscope.errors import TargetError
from vitscope.targets import ClassNames

ENDINGS = (".csv", ".xml", ".txt", ".json", ".mat")
NAMES = {
    "labels.txt": "cat\ndog, hound\nn02123045 tabby, tabby cat\n",
    "labels.json": json.dumps({"0": ["n1", "cat"], "1": "dog"}),
    "map.txt": "# name,index\ncat,281\ndog hound 207\n",
    "map.json": json.dumps({"cat": 281, "dog hound": 207}),
    "synsets.txt": "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
}
KNOWN = ("cat", "dog hound")


class Annotations:
    """`open_dataset` and its items, `ClassNames.read`, `ClassMap.of` and `Synsets.read`."""

    def prepare(self, folder: Path) -> None:
        """The data sets, and room for a file of names."""
        self._sets, self._names = Folders(folder), folder / "names"
        self._names.mkdir(exist_ok=True)

    def case(self, chance: Random) -> Case:
        """One file of annotations with faults."""
        if chance.random() < 0.3:
            name = chance.choice(sorted(NAMES))
            return Case("names", {name: broken(name, NAMES[name].encode(), chance)})
        kind = chance.choice(sorted(SOURCES))
        home = kind.removesuffix("_single")
        files = {
            name: content
            for name, content in self._sets.files.items()
            if name.startswith(f"{home}/") and name.endswith(ENDINGS)
        }
        name = chance.choice(sorted(files))
        return Case(kind, {name: broken(name, files[name], chance)})

    def call(self, case: Case) -> None:
        """Read the data set, or the names."""
        if case.kind != "names":
            self._sets.call(case)
            return
        ((name, content),) = case.files.items()
        file = self._names / name
        file.write_bytes(content)
        if name.startswith("labels"):
            known = ClassNames.read(file)
            for word in ("cat", "", *WORDS[:4]):
                refused(known, word)
        elif name.startswith("map"):
            outputs = ClassMap.of(KNOWN, str(file)).outputs or ()
            assert all(output is None or output >= 0 for output in outputs)
        else:
            known_synsets = Synsets.read(file)
            assert len(known_synsets.ids) == len(known_synsets.names)


def refused(names: ClassNames, word: str) -> None:
    """A class by its name, or in one line why there is none."""
    with contextlib.suppress(TargetError):
        assert 0 <= names.index(word) < len(names)


def broken(name: str, content: bytes, chance: Random) -> bytes:
    """Faults in bytes, in words, or in what JSON says."""
    if name.endswith(".mat") or chance.random() < 0.15:
        return some_bytes(content, chance)
    if name.endswith(".json") and chance.random() < 0.8:
        return encoded(json_text(some_json(json.loads(content), chance), chance), chance)
    return encoded(some_text(content.decode(), chance), chance)
