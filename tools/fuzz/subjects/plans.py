"""What a run left in its folder, to be gone on with, summed up or shown: manifests, Parquet parts, records."""

from __future__ import annotations

import io
import json
import shutil
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tools.fuzz.judge import Case
from tools.fuzz.mutate import encoded, json_text, some_bytes, some_json

from vitscope import Explainer
from vitscope.bench import bench, make_plan, plan_maps, read_maps, store_maps
from vitscope.bench.plan import parts_of
from vitscope.bench.store import Store
from vitscope.bench.summarise import summarise
from vitscope.datasets import Scenes
from vitscope.report.folder import write_report
from vitscope.save import save_explanation, write_run_manifest
from vitscope.saved import Run
from vitscope.targets import Predicted

KINDS = ("resume", "resume", "resume", "rows", "maps", "maps", "report")
HELD = {"resume": "rows", "rows": "rows", "maps": "maps", "report": "report"}
PART = "parts/part-00000.parquet"
TYPES = (pa.string(), pa.int64(), pa.float32(), pa.bool_(), pa.list_(pa.float32()), pa.binary(), pa.null())


class Plans:
    """`Store.begin` and its parts, `summarise`, `read_maps` and `write_report`."""

    def prepare(self, folder: Path) -> None:
        """A run of metrics, one of maps, and a folder of pictures, of the bundled model; made once."""
        self._folder = folder
        if not (folder / "done").exists():
            make_runs(folder)
            (folder / "done").write_text("")

    @cached_property
    def _valid(self) -> dict[str, dict[str, bytes]]:
        kinds = {kind: self._folder / kind for kind in set(HELD.values())}
        return {
            kind: {file.relative_to(home).as_posix(): file.read_bytes() for file in sorted(home.rglob("*.*"))}
            for kind, home in kinds.items()
        }

    def case(self, chance: Random) -> Case:
        """One file of a folder with faults; of a manifest mostly in what it says."""
        kind = chance.choice(KINDS)
        files = self._valid[HELD[kind]]
        names = [name for name in files if name.endswith((".json", ".parquet"))]
        name = chance.choice(names)
        if kind == "maps" and chance.random() < 0.8:
            name = PART
        content = files[name]
        if chance.random() < 0.3:
            return Case(kind, {name: some_bytes(content, chance, list(files.values()))})
        if name.endswith(".parquet"):
            return Case(kind, {name: other_part(content, chance)})
        return Case(kind, {name: encoded(json_text(some_json(json.loads(content), chance), chance), chance)})

    def call(self, case: Case) -> None:
        """Put the files into the folder, use it, and put the valid ones back."""
        home = self._folder / HELD[case.kind]
        try:
            for name, content in case.files.items():
                (home / name).write_bytes(content)
            use(case.kind, home, self._valid["rows"]["manifest.json"])
        finally:
            for name in case.files:
                (home / name).write_bytes(self._valid[HELD[case.kind]][name])


def use(kind: str, home: Path, manifest: bytes) -> None:
    """What is done with a folder of a kind."""
    if kind == "resume":
        known = json.loads(manifest)
        store = Store.begin(home, known["plan"], known["hash"], resume=True)
        for part in parts_of(4, 2):
            facts = store.facts(part)
            assert facts is None or isinstance(facts, dict)
    elif kind == "rows":
        summarise(home, resamples=10, write=False)
    elif kind == "maps":
        for found in read_maps(home):
            assert found.values is None or found.values.ndim == 2
    else:
        for page in write_report(home):
            assert page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def make_runs(folder: Path) -> None:
    """The three folders; what the clock says is made the same."""
    explainer = Explainer("scenes")
    plan = make_plan(explainer, "scenes:count=4", methods="cdam,attention", metrics="energy", part_size=2)
    bench(plan, folder / "rows", explainer=explainer, overwrite=True)
    (folder / "pictures").mkdir(exist_ok=True)
    paths = [folder / "pictures" / f"{index}.png" for index in range(3)]
    for path, scene in zip(paths, Scenes(3), strict=True):
        Image.fromarray(scene.image).save(path)
    maps = plan_maps(explainer, paths, "cdam", Predicted(), part_size=3)
    store_maps(maps, explainer, Predicted(), folder / "maps", overwrite=True)
    shutil.rmtree(folder / "report", ignore_errors=True)
    saved = save_explanation(explainer(paths[:2], "cdam"), folder / "report")
    written = {str(p): one.name for p, one in zip(paths, saved, strict=False)}
    write_run_manifest(folder / "report", Run(written, {}))
    for file in (folder / "report").rglob("*"):
        if file.suffix in (".png", ".npz", ".gif"):
            file.unlink()  # which nothing of this reads
    for file in folder.rglob("manifest.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        for key, value in (("created", "2026-01-01T00:00:00+00:00"), ("last_session", {"parts": 2, "seconds": 1.0})):
            if key in content:
                content[key] = value
        file.write_text(json.dumps(content), encoding="utf-8")


def other_part(content: bytes, chance: Random) -> bytes:
    """A whole Parquet file with other columns, types, values or facts than a part has."""
    table = pq.read_table(io.BytesIO(content))
    for _ in range(1 + chance.randrange(3)):
        place = chance.randrange(table.num_columns) if table.num_columns else None
        kind = chance.randrange(7)
        if kind == 0 and place is not None:
            table = table.remove_column(place)
        elif kind == 1 and place is not None:
            name, rows = table.column_names[place], table.num_rows
            table = table.set_column(place, name, pa.nulls(rows, chance.choice(TYPES)))
        elif kind == 2 and place is not None:
            values = table.column(place).to_pylist()
            for _ in range(1 + chance.randrange(3)):
                if values:
                    values[chance.randrange(len(values))] = other_value(values, chance)
            table = _replaced(table, place, values)
        elif kind == 3:
            table = table.slice(0, chance.choice((0, 1, table.num_rows)))
        elif kind == 4:
            table = pa.concat_tables([table, table])
        elif kind == 5 and place is not None:
            names = list(table.column_names)
            names[place] = chance.choice(("image", "value", "", "rows", "ü" * 50))
            table = table.rename_columns(names)
        else:
            known = {key: value for key, value in (table.schema.metadata or {}).items() if chance.random() < 0.6}
            if chance.random() < 0.6:
                facts = some_json({"images": 2, "failed": 0, "left_out": {"energy": 1}}, chance)
                known[b"vitscope.facts"] = json_text(facts, chance).encode("utf-8", "surrogatepass")
            table = table.replace_schema_metadata(known)
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def other_value(values: list[Any], chance: Random) -> Any:
    """Of the same kind as the column's others, or nearly."""
    one = next((value for value in values if value is not None), None)
    if isinstance(one, str):
        return chance.choice((None, "", "a\nb", "x" * 3000, "energy", "\x00"))
    if isinstance(one, list):
        return chance.choice((None, [], one[:1], one * 2, [None], [float("nan")]))
    return chance.choice((None, 0, -1, float("nan"), float("inf"), 2**31 - 1))


def _replaced(table: pa.Table, place: int, values: list[Any]) -> pa.Table:
    """Another column in the place of one; as it was where its type does not take the values."""
    name, kind = table.column_names[place], table.schema.field(place).type
    try:
        return table.set_column(place, name, pa.array(values, kind, from_pandas=False))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        kept = [None if isinstance(value, float) and not np.isfinite(value) else value for value in values]
        try:
            return table.set_column(place, name, pa.array(kept, kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return table.remove_column(place)
