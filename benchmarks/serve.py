"""A live server under load: `python benchmarks/serve.py --help`.

Good and bad requests are drawn at random and sent one after another, then many at once; every answer is held against
a direct explanation of the same pictures, or against the refusal that is due. Printed: latencies, how many pictures
shared a pass, and the server's memory, which must not grow. The exit code is 1 where an answer was wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from PIL import Image

from vitscope import Explainer
from vitscope.datasets import Scenes
from vitscope.report import content_of, lens_of
from vitscope.report.packing import unpacked
from vitscope.serve import Limits
from vitscope.targets import Concept

MODEL = "scenes"
USUAL = "daam,agcam,cdam"
METHODS = (USUAL, USUAL, USUAL, "", "", "daam,gradcam", "attention", "attention,cdam", "cdam,rise:masks=24")
TOLERANCE = 3e-4
"""Of an array's largest magnitude: rounding, which hangs on the batch's size, and the lens's 16 bits."""

File = tuple[str, tuple[str, bytes]]


@dataclass
class Case:
    """A request and what is due.

    Attributes:
        what: in words.
        files, data: of the form.
        status: due.
        says: a pattern that a refusal's line must hold.
    """

    what: str
    files: list[File]
    data: dict[str, str] = field(default_factory=dict)
    status: int = 200
    says: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    case: Case
    status: int
    content: bytes
    seconds: float


class Cases:
    """Draws requests."""

    def __init__(self, explainer: Explainer, seed: int = 0, methods: Sequence[str] = METHODS) -> None:
        self._explainer, self._random, self._methods = explainer, random.Random(seed), methods
        self._scenes = [Scenes(200, kind, seed=seed + 1) for kind in ("one", "two", "several")]
        self._numbers = np.random.default_rng(seed)

    def good(self) -> Case:
        """One that must succeed."""
        draw = self._random
        kind = draw.choice(["predicted", "predicted", "class", "name", "contrast", "probability", "concept"])
        methods = draw.choice(self._methods)
        names = [self._explainer.names[index] for index in range(self._explainer.anatomy.outputs)]
        first, second = draw.sample(names, 2)
        target = {
            "class": str(draw.randrange(len(names))),
            "name": first.upper(),
            "contrast": f"{first} rather than {second}",
            "probability": f"probability of {second}",
        }.get(kind, "")
        if methods == "attention" and kind != "predicted":
            methods = "attention,cdam"  # alone it would have nothing to show
        files = [("images", self.picture()) for _ in range(draw.choice([1, 1, 1, 1, 2, 3]))]
        if kind == "concept":
            files += [("concept", self.picture()) for _ in range(draw.randint(1, 3))]
        data = {"methods": methods, "target": target, "lens": draw.choice(["true", "true", "true", "false"])}
        return Case(f"{kind} by {methods or 'default'}", files, {key: value for key, value in data.items() if value})

    def bad(self) -> Case:
        """One that must be refused."""
        good = ("images", self.picture())
        limits = Limits()
        return self._random.choice(
            [
                lambda: Case("a text", [good, ("images", ("a.png", b"hello " * 99))], {}, 415, "a.png: not a picture"),
                lambda: Case("a bomb", [("images", ("b.png", bomb()))], {}, 413, "b.png: 100 megapixels, at most 50"),
                lambda: Case("a cut file", [("images", ("c.png", good[1][1][:2000]))], {}, 422, "c.png: .*damaged"),
                lambda: Case(
                    "a thread", [("images", ("d.png", encoded(Image.new("L", (1, 900)))))], {}, 413, "shorter"
                ),
                lambda: Case(
                    "a body too large", [("images", ("e.png", bytes(limits.body_bytes)))], {}, 413, "larger than 32 MiB"
                ),
                lambda: Case("too many", [good] * (limits.pictures + 1), {}, 413, "9 files"),
                lambda: Case("no picture", [("concept", good[1])], {}, 422, "no picture"),
                lambda: Case("no such class", [good], {"target": "unicorn"}, 422, "unicorn"),
                lambda: Case("class out of range", [good], {"target": "999"}, 422, "out of range"),
                lambda: Case("no such method", [good], {"methods": "daam,dam"}, 422, "unknown method 'dam'"),
                lambda: Case("no such model", [good], {"model": "../../etc/passwd"}, 422, "is loaded"),
                lambda: Case("no such field", [good], {"path": "/etc/passwd"}, 422, "no field 'path'"),
            ]
        )()

    def picture(self) -> tuple[str, bytes]:
        """A file: a scene, made larger or smaller, in one of the formats."""
        scene = self._random.choice(self._random.choice(self._scenes)).image
        image = Image.fromarray(scene)
        size = (self._random.randint(40, 400), self._random.randint(40, 400))
        image = image.resize(size, Image.Resampling.BICUBIC) if self._random.random() < 0.7 else image
        kind = self._random.choice(["png", "jpeg", "webp", "bmp", "tiff"])
        noisy = np.asarray(image, dtype=np.int16) + self._numbers.integers(-3, 4, (*image.size[::-1], 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        return f"{self._random.randrange(10**6)}.{kind}", encoded(image, kind)

    def mixed(self, count: int, bad: float) -> list[Case]:
        """So many, a share of them bad."""
        return [self.bad() if self._random.random() < bad else self.good() for _ in range(count)]


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def bomb(side: int = 10_000) -> bytes:
    """A small PNG of very many pixels."""
    return encoded(Image.new("1", (side, side)))


class Judge:
    """Holds answers against direct explanations."""

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer

    def wrong(self, answer: Answer) -> str:
        """What is wrong with an answer, or ""."""
        case = answer.case
        if answer.status != case.status:
            return f"{case.what}: {answer.status} in place of {case.status}: {answer.content[:300]!r}"
        if case.status != 200:
            line = json.loads(answer.content).get("error", "")
            return "" if re.search(case.says, line) else f"{case.what}: answered '{line}'"
        found = json.loads(answer.content)["pictures"]
        wanted = self.records(case)
        if len(found) != len(wanted):
            return f"{case.what}: {len(found)} pictures in place of {len(wanted)}"
        for one, other in zip(found, wanted, strict=True):
            if reason := difference(one, other):
                return f"{case.what}: {one['name']}: {reason}"
        return ""

    def records(self, case: Case) -> list[dict[str, Any]]:
        """What is due, each picture explained by itself."""
        own: dict[str, list[tuple[str, bytes]]] = {"images": [], "concept": []}
        for name, file in case.files:
            own[name].append(file)
        target: Any = case.data.get("target")
        if own["concept"]:
            count = len(own["concept"])
            features = self._explainer.features([Image.open(io.BytesIO(content)) for _, content in own["concept"]])
            target = Concept(features, name=f"the concept of {count} picture{'' if count == 1 else 's'}")
        methods = case.data.get("methods", USUAL)
        records = []
        for name, content in own["images"]:
            images = [Image.open(io.BytesIO(content))]
            found = self._explainer(images, methods, target, strict=False, max_forwards=Limits().max_forwards)
            lens = lens_of(self._explainer, images) if case.data.get("lens") != "false" else None
            (record,) = content_of(found, lens, len(own["images"]))["pictures"]
            records.append(record | {"name": name})
        return records


def difference(found: Any, wanted: Any, where: str = "") -> str:
    """Where two records differ beyond rounding, or ""."""
    if isinstance(wanted, Mapping) and "dtype" in wanted:
        if found["dtype"] != wanted["dtype"] or found["shape"] != wanted["shape"]:
            return f"{where}: another kind of array"
        one, other = unpacked(found), unpacked(dict(wanted))
        off = float(np.abs(one - other).max()) if one.size else 0.0
        return f"{where}: off by {off:g}" if off > TOLERANCE * max(1e-6, float(np.abs(other).max())) else ""
    if isinstance(wanted, Mapping):
        if found.keys() != wanted.keys():
            return f"{where}: {sorted(found)} in place of {sorted(wanted)}"
        skipped = {"provenance"}
        reasons = (difference(found[key], wanted[key], f"{where}.{key}") for key in wanted if key not in skipped)
        return next(filter(None, reasons), "")
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if len(found) != len(wanted):
            return f"{where}: {len(found)} in place of {len(wanted)}"
        reasons = (difference(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(found, wanted, strict=True)))
        return next(filter(None, reasons), "")
    if isinstance(wanted, float):
        return "" if abs(found - wanted) <= 2e-3 * max(1.0, abs(wanted)) else f"{where}: {found} in place of {wanted}"
    return "" if found == wanted else f"{where}: {str(found)[:80]!r} in place of {str(wanted)[:80]!r}"


class Live:
    """A server in a process of its own."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "vitscope", "serve", "--model", MODEL, "--port", "0", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().split()[0]

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *problem: object) -> None:
        self._process.send_signal(signal.SIGINT)
        _, self.said = self._process.communicate(timeout=30)
        self.code = self._process.returncode

    def memory(self) -> dict[str, float]:
        """Of the process, in MiB, now and at most; where /proc tells it."""
        file = Path(f"/proc/{self._process.pid}/status")
        if not file.exists():
            return {}
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
        return {key: int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")}

    def status(self) -> dict[str, Any]:
        return httpx2.get(f"{self.address}/api/status").json()

    def ask(self, client: httpx2.Client, case: Case) -> Answer:
        """Send a request until there is room for it."""
        start = time.perf_counter()
        while True:
            reply = client.post(f"{self.address}/api/explain", files=case.files, data=case.data, timeout=300)
            if reply.status_code != 429:
                return Answer(case, reply.status_code, reply.content, time.perf_counter() - start)
            time.sleep(float(reply.headers["Retry-After"]))

    def ask_all(self, cases: Sequence[Case], at_once: int) -> list[Answer]:
        """All of them, so many at the same time."""
        with (
            httpx2.Client(limits=httpx2.Limits(max_connections=at_once)) as client,
            ThreadPoolExecutor(at_once) as pool,
        ):
            return list(pool.map(lambda case: self.ask(client, case), cases))


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    explainer = Explainer(MODEL)
    cases, judge = Cases(explainer, arguments.seed), Judge(explainer)
    wrong: list[str] = []
    with Live(("--batch-size", str(arguments.batch_size))) as live:
        print(_memory("at the start", live))
        live.ask_all(cases.mixed(arguments.warm_up, arguments.bad), arguments.concurrent)
        warm = live.memory().get("VmRSS", 0.0)
        print(_memory("after the warm-up", live))
        for title, count, at_once in (
            ("one after another", arguments.requests, 1),
            (f"{arguments.concurrent} at once", arguments.requests, arguments.concurrent),
            (f"{arguments.concurrent} at once, again", arguments.requests, arguments.concurrent),
        ):
            before, start = live.status()["passes"], time.perf_counter()
            answers = live.ask_all(cases.mixed(count, arguments.bad), at_once)
            seconds = time.perf_counter() - start
            found = [reason for answer in answers if (reason := judge.wrong(answer))]
            wrong += found
            print(f"\n{title}: {count} requests in {seconds:.1f} s, {len(found)} wrong answers")
            print(f"  statuses {dict(sorted(Counter(answer.status for answer in answers).items()))}")
            for name, status in (("good", 200), ("bad", None)):
                times = [a.seconds for a in answers if (a.case.status == 200) == (status == 200)]
                print(f"  {name}: {len(times)}; seconds {_quantiles(times)}")
            passes = Counter(live.status()["passes"])
            passes.subtract(before)
            print(f"  pictures in a pass: {dict(sorted((int(k), v) for k, v in passes.items() if v))}")
            print(f"  {_memory('memory', live)}")
        if (grown := live.memory().get("VmRSS", 0.0) - warm) > arguments.growth:
            wrong.append(f"memory grew by {grown:.0f} MiB")
    print(f"\nended with code {live.code}; said: {live.said.strip()!r}")
    for reason in wrong:
        print(f"WRONG {reason}")
    sys.exit(1 if wrong or live.code else 0)


def _memory(when: str, live: Live) -> str:
    return f"{when}: " + ", ".join(f"{key} {value:.0f} MiB" for key, value in live.memory().items())


def _quantiles(times: Sequence[float]) -> str:
    if len(times) < 2:
        return ", ".join(f"{one:.3f}" for one in times)
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return f"p50 {cuts[9]:.3f}, p95 {cuts[18]:.3f}, max {max(times):.3f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=200, help="of each phase")
    parser.add_argument("--concurrent", type=int, default=32, help="at the same time, in the later phases")
    parser.add_argument("--warm-up", type=int, default=100, help="requests before memory is looked at")
    parser.add_argument("--growth", type=float, default=50, help="MiB that memory may grow by afterwards")
    parser.add_argument("--bad", type=float, default=0.3, help="share of requests that must be refused")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
