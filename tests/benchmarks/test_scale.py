"""The benchmark of long runs: pieces that go on where the last one ended, and what they tell."""

from __future__ import annotations

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import scale

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc"),
]


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["scale.py", *map(str, words)])
        with pytest.raises(SystemExit) if words[0] != "tell" else pytest.MonkeyPatch.context() as ended:
            scale.main()
        told = capsys.readouterr().out
        return (json.loads(told), 0) if words[0] == "tell" else (told, ended.value.code)

    return run


@pytest.mark.slow
def test_maps_of_drawn_scenes_in_two_pieces(call, tmp_path):
    words = ["--count", 9, "--part-size", 2, "--batch-size", 2, "--methods", "cdam,attention", "--dtype", "float32"]
    out, whole, pictures = tmp_path / "out", tmp_path / "whole", ["--pictures", tmp_path]
    told, code = call("run", "maps", out, *words, *pictures, "--seconds", 0)
    assert code == 3
    assert not json.loads(told)["complete"]
    told, code = call("run", "maps", out, *words, *pictures)
    assert code == 0
    assert json.loads(told)["finished"][-1] > 0
    assert call("run", "maps", whole, *words, *pictures)[1] == 0
    assert call("compare", out, whole) == ("the same rows\n", 0)
    pieces = [json.loads(line) for line in (whole / scale.LOG).read_text().splitlines()]
    assert max(sample[scale.PLACES["command"]] for sample in pieces[0]["memory"]) > 50
    found, _ = call("tell", out, whole)
    for one in found:
        assert one["complete"]
        assert (one["parts"], one["rows"]) == (5, 18)
        assert one["images_per_second"] > 0
        assert one["bytes"] > one["bytes_of_columns"]["values"] > 18 * 144 * 2
        assert str(tmp_path) not in one["command"].partition("--out")[2]


def test_rates_are_of_the_images_between_the_first_part_and_the_last(tmp_path):
    (tmp_path / "parts").mkdir()
    for number in range(5):
        pq.write_table(pa.table({"image": ["a"] * 4}), tmp_path / "parts" / f"part-{number:05}.parquet")
    common = {"engine": "ray", "workers": 2, "device": "cpu", "threads": "1", "machine": "m", "part": 4, "exit": 0}
    pieces = [
        {"command": f"vitscope x --out {tmp_path}", "seconds": 9.0, "finished": [4.0, 5.0, 7.0], "complete": False},
        {"command": f"vitscope x --out {tmp_path}", "seconds": 8.0, "finished": [5.0, 6.0], "complete": True},
    ]
    memory = [[1, 0, 500, 0, 9], [4, 1, 90, 10, 10], [5, 2, 91, 10, 12], [5, 3, 91, 10, 16], [6, 4, 99, 12, 19]]
    lines = [json.dumps({**common, **piece, "memory": memory}) for piece in pieces]
    (tmp_path / scale.LOG).write_text("\n".join(lines))
    found = scale.measured(tmp_path)
    assert found["images_per_second"] == pytest.approx(3 * 4 / (3 + 1))
    assert found["quartiles"] == []
    assert found["start_s"] == pytest.approx(4.5 - 4 / 3 * 2)
    assert found["command"] == "vitscope x --out OUT"
    assert found["memory_mib"]["command"] == {"first third": 91, "second third": 99, "last third": 99}
    assert found["cpu_s_an_image"] == pytest.approx((16 - 10) / (2 * 4))
    assert (found["rows"], found["parts"], found["pieces"], found["seconds"]) == (20, 5, 2, 17.0)


def test_other_rows_are_told(tmp_path, call):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / name / "parts").mkdir(parents=True)
        pq.write_table(pa.table({"value": [value]}), tmp_path / name / "parts" / "part-00000.parquet")
    assert call("compare", tmp_path / "a", tmp_path / "b")[1] == 0
    assert call("compare", tmp_path / "a", tmp_path / "c") == ("part-00000.parquet: its rows differ\n", 1)
    (tmp_path / "c" / "parts" / "part-00000.parquet").rename(tmp_path / "c" / "parts" / "part-00001.parquet")
    assert call("compare", tmp_path / "a", tmp_path / "c")[1] == 1
