"""Command lines, and the small languages in their options."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
from PIL import Image
from tools.fuzz.judge import Case
from tools.fuzz.mutate import WORDS, some_text

from vitscope import cli
from vitscope.datasets import as_reader
from vitscope.methods import choose
from vitscope.metrics import as_presets
from vitscope.targets import as_target
from vitscope.targets.names import ClassNames
from vitscope.trace.budget import as_bytes
from vitscope.view.video import usable

COMMANDS = {
    "explain": ("--model", "--out", "--methods", "--target", "--batch-size", "--memory-limit", "--size", "--crop-pct"),
    "compare": ("--model", "--out", "--methods", "--target", "--evolution", "--size", "--max-forwards"),
    "bench": ("--dataset", "--model", "--out", "--methods", "--metrics", "--limit", "--part-size", "--target"),
    "flow": ("--model", "--out", "--target", "--mean", "--std"),
    "describe": ("--json", "--weights", "--size"),
    "bank build": ("--model", "--out", "--dataset", "--root", "--limit", "--batch-size"),
    "bank info": ("--json",),
    "models": ("--json",),
    "methods": ("--json",),
    "metrics": ("--json",),
    "datasets": ("--json",),
    "report": (),
    "serve": ("--model", "--port", "--host"),
    "doctor": ("--json",),
}
EVERYWHERE = ("--device", "--precision", "--labels", "--store", "--dtype", "--workers", "--engine", "--video", "--bank")
FLAGS = ("--json", "--evolution", "--resume", "--overwrite", "--report")
GOOD = {
    "--model": ("scenes", "scenes-ssl", "nothing/like/it", "timm/vit", "hf/a/b", "./folder", "t2t/x", "torchvision/x"),
    "--out": ("o", "o/p/q", "file.txt", "o.safetensors", "o.png", "/proc/x"),
    "--methods": ("cdam", "daam,agcam", "agcam:scores=softmax", "all", "cam", "rollout,cdam", "smooth_cdam:samples=2"),
    "--target": ("3", "circle", "0 rather than 1", "probability of 2", "label", "predicted"),
    "--batch-size": ("1", "2", "0", "-1"),
    "--memory-limit": ("1GB", "5MB", "1KB", "0"),
    "--size": ("96", "48x96", "96x48", "50", "0", "-8", "100000000"),
    "--crop-pct": ("0.9", "1.0", "0", "nan", "2"),
    "--max-forwards": ("1", "8", "0"),
    "--dataset": ("scenes:count=2", "scenes", "folder", "voc", "masks:ignore=0", "coco:split=x"),
    "--metrics": ("energy", "agcam", "pointing,energy", "srg"),
    "--limit": ("1", "2", "0"),
    "--part-size": ("1", "0"),
    "--root": (".", "pictures", "nowhere"),
    "--mean": ("0.5,0.5,0.5", "1,2", "nan,0,0"),
    "--std": ("0.5,0.5,0.5", "0,1,1"),
    "--port": ("-1", "70000", "x"),
    "--host": ("256.0.0.1", ""),
    "--device": ("cpu", "cuda:99", "mps", "meta", "x"),
    "--precision": ("bf16", "fp16", "float32", "int8"),
    "--labels": ("labels.txt", "nowhere.txt", "pictures"),
    "--weights": ("file.txt", "nowhere.pth", "pictures"),
    "--store": ("parquet", "csv"),
    "--dtype": ("float16", "int8"),
    "--workers": ("0", "1", "-1"),
    "--engine": ("local", "ray", "x"),
    "--video": ("mp4", "avi"),
    "--bank": ("scenes-ssl", "file.txt"),
}
ARGUMENTS = ("pictures/a.png", "pictures", "file.txt", "nowhere.png", "scenes", "cdam", "scenes-ssl", "vit", "o")
LANGUAGES = {
    "methods": (choose, ("daam,agcam:scores=softmax,cdam", "all", "family:cam", "smooth_cdam:samples=3,sigma=0.1")),
    "metrics": (as_presets, ("agcam,srg,energy", "energy", "curve:steps=3")),
    "dataset": (as_reader, ("scenes:count=4,kind=two", "voc:task=detection,classes_per_image=1", "masks:ignore=3")),
    "target": (
        lambda text: as_target(text, ClassNames(("cat", "dog, hound"))),
        ("cat rather than dog", "probability of hound", "1", "cat"),
    ),
    "memory": (as_bytes, ("4GB", "512 MiB", "1.5GiB", "100")),
    "video": (usable, ("mp4,webm", "mp4")),
}
"""Language -> what reads it, and valid words."""


class Commands:
    """`vitscope ...` in this process, and the parsers of its options."""

    def prepare(self, folder: Path) -> None:
        """A folder to be in, with a picture, labels and a file of text."""
        self._folder = folder
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / "pictures" / "a.png")
        (folder / "file.txt").write_text("hello")
        (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(12)))
        (folder / "folder").mkdir(exist_ok=True)

    def case(self, chance: Random) -> Case:
        """A command line, mostly with a few faults; or a phrase of one of the languages."""
        if chance.random() < 0.5:
            name = chance.choice(sorted(LANGUAGES))
            return Case(name, words=(some_text(chance.choice(LANGUAGES[name][1]), chance),))
        return Case("line", words=tuple(word.replace("\0", "") for word in some_line(chance)))

    def call(self, case: Case) -> None:
        """Run it."""
        if case.kind != "line":
            LANGUAGES[case.kind][0](case.words[0])
            return
        with contextlib.chdir(self._folder):
            run(case.words)
            for left in self._folder.iterdir():
                if left.name.startswith("o"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def run(words: tuple[str, ...]) -> None:
    """The command as a shell runs it; AssertionError where it does not end as it should."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        mock.patch.object(sys, "argv", ["vitscope", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    said = err.getvalue()
    assert code in (None, 0, 1, 2), f"exit code {code}"
    assert "Traceback" not in said + out.getvalue(), "a traceback"
    assert code in (None, 0) or said.strip() or out.getvalue().strip(), "failed without a word"


def some_line(chance: Random) -> list[str]:
    """A command with options of its own, some of others, and words that are none."""
    command = chance.choice(sorted(COMMANDS))
    words = command.split()
    if chance.random() < 0.03:
        words = [chance.choice(WORDS)]
    words += chance.choices(ARGUMENTS, k=chance.choice((0, 1, 1, 1, 2)))
    options = [option for option in COMMANDS[command] if chance.random() < 0.75]
    options += chance.sample(EVERYWHERE + FLAGS, k=chance.choice((0, 0, 0, 1, 2)))
    for option in options:
        words.append(option)
        if option not in FLAGS:
            words.append(chance.choice(GOOD[option]))
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        place = chance.randrange(len(words)) if words else 0
        kind = chance.randrange(5)
        if kind == 0:
            words[place : place + 1] = []
        elif kind == 1:
            words.insert(place, chance.choice(WORDS))
        elif kind == 2 and words:
            words[place] = some_text(words[place], chance)
        elif kind == 3 and words:
            words.insert(place, words[chance.randrange(len(words))])
        elif words and place > 0:
            words[place] = chance.choice(WORDS)
    return words
