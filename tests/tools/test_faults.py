"""The planted faults have a place in the source; what becomes of them is read rightly."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from tools.faults import Fault, FaultError

from tools import faults

ROOT = Path(__file__).parents[2]
ALL = faults.faults()


def test_there_are_at_least_36_of_all_areas():
    assert len(ALL) >= 36
    assert len({fault.name for fault in ALL}) == len(ALL)
    areas = {fault.file.split("/")[2] for fault in ALL}
    wanted = {"trace", "methods", "images", "models", "targets", "metrics", "bench", "datasets", "cli", "view"}
    assert areas >= wanted | {"report", "serve", "saved.py", "evidence.py", "activation.py"}


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.name)
def test_each_has_one_place_and_changes_what_runs(fault):
    text = (ROOT / fault.file).read_text("utf-8")
    assert text.count(fault.old) == 1, f"the code has gone: look where, and change {fault.name} in tools/faults.toml"
    planted = fault.planted(text)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(text))


def test_earlier_text_is_known_too():
    fault = Fault("f", "what", "file.py", "new text", "fault", ("old text",), "old fault")
    assert fault.planted("a new text") == "a fault"
    assert fault.planted("an old text") == "an old fault"
    assert fault.planted("another") is None
    with pytest.raises(FaultError, match=r"f: file.py holds its text 2 times"):
        fault.planted("new text, new text")


def test_a_copy_holds_the_fault_and_the_working_tree_does_not(tmp_path, monkeypatch):
    fault = ALL[0]
    monkeypatch.setattr(faults, "ROOT", tmp_path / "root")
    file = tmp_path / "root" / fault.file
    file.parent.mkdir(parents=True)
    file.write_text(f"x = 1  # {fault.old}")
    listed = type("Done", (), {"stdout": f"{fault.file}\0gone.py\0"})
    monkeypatch.setattr(faults.subprocess, "run", lambda *_, **__: listed)
    with faults.copied("") as copy:
        assert faults.plant(fault, copy)
        assert fault.new in (copy / fault.file).read_text()
        assert not faults.plant(fault, copy)
    assert not copy.exists()
    assert fault.old in file.read_text()


def test_a_copy_whose_package_is_not_imported_is_refused(tmp_path):
    with pytest.raises(FaultError, match="is imported, not the copy's package"):
        faults.check_imported(tmp_path)


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("def test_a(): pass\ndef test_b(): assert 0, 'a - b'\ndef test_c(): assert 0", "test_it.py::test_b"),
        ("import nowhere_to_be_found", "test_it.py"),
        ("def test_a(): pass", ""),
        ("x = 1", ""),
    ],
)
def test_the_first_failure(tmp_path, monkeypatch, text, caught):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take long to load
    (tmp_path / "test_it.py").write_text(text)
    assert faults.first_failure(tmp_path, ["test_it.py"], 60) == caught


def test_another_end_of_pytest_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    with pytest.raises(FaultError, match="pytest ended with 4 and no failure"):
        faults.first_failure(tmp_path, ["no_such_file.py"], 60)


def test_a_survivor_is_taken_further_and_nothing_is_run_twice():
    fault = ALL[0]
    row = {"digest": fault.digest, "caught_by": faults.SURVIVED, "level": "check"}
    assert faults.level_known(None, fault, "check") == (False, "")
    assert faults.level_known(row, fault, "check") == (True, "check")
    assert faults.level_known(row, fault, "suite") == (False, "check")
    assert faults.level_known(row | {"level": "all"}, fault, "suite") == (True, "all")
    assert faults.level_known(row | {"caught_by": "tests/test_x.py::test_y"}, fault, "all") == (True, "")
    assert faults.level_known(row | {"digest": "of another text"}, fault, "check") == (False, "")


def test_what_fails_without_the_fault_has_caught_nothing(monkeypatch, capsys):
    rows = {
        name: {"fault": name, "caught_by": test, "level": "check"}
        for name, test in {"a": "tests/x.py::test_a", "b": "tests/x.py::test_b", "c": faults.SURVIVED}.items()
    }
    monkeypatch.setattr(faults, "failing_without", lambda tests, *_: ["tests/x.py::test_b"])
    options = type("Options", (), {"out": None, "revision": ""})
    assert faults._settle(rows, ["a", "b", "c"], options, None) == 1
    assert rows["a"]["passes_without"]
    assert "b" not in rows
    assert "3 faults, 1 survive: c" in capsys.readouterr().out


def test_the_table(tmp_path):
    one, two = ALL[0], ALL[1]
    now, then = tmp_path / "now.json", tmp_path / "then.json"
    caught = {"fault": one.name, "caught_by": "tests/test_x.py::test_y[a|b]", "level": "check", "seconds": 7}
    left = {"fault": two.name, "caught_by": faults.SURVIVED, "level": "suite", "seconds": 200}
    faults.write(now, "", {one.name: caught, two.name: left})
    faults.write(then, "5cab33f", {one.name: caught | {"caught_by": faults.NOT_THERE}})
    assert json.loads(now.read_text())["revision"] == "working tree"
    assert faults.read(now)[one.name] == caught
    lines = faults.table([then, now]).splitlines()
    assert lines[0] == "| fault | 5cab33f | working tree |"
    assert lines[2].endswith(r"| no such code | make check: `test_x.py::test_y[a\|b]` |")
    assert lines[3].endswith("|  | **survives** make test |")
    assert lines[-1] == "working tree: 1 of 2 caught."


def test_names_that_are_no_fault_are_refused():
    with pytest.raises(FaultError, match="there is no fault nonsense; --list names them"):
        faults.chosen(["nonsense"])
    assert faults.chosen([ALL[3].name]) == [ALL[3]]
