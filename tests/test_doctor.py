"""What the doctor says of this machine, and of a sick one."""

import json
import shutil
from importlib.metadata import requires

import pytest

from vitscope import doctor
from vitscope.errors import VitscopeError

USAGE = type(shutil.disk_usage("/"))


@pytest.fixture(scope="module")
def found():
    return doctor.diagnose()


def test_it_tells_all_that_a_question_needs(found):
    assert found.sound
    assert "knows its scene" in found.facts["self-check"]["bundled model"]
    needed = [line for line in requires("vitscope") or [] if "extra ==" not in line]
    assert len(found.facts["versions"]) == 1 + len(needed)
    assert "not installed" not in found.facts["versions"].values()
    assert "cpu" in found.facts["precisions"]["float32"]
    json.dumps(found.facts)


def test_a_package_that_is_too_old_or_missing(monkeypatch):
    known = {"timm": "0.4.12", "rich": doctor.NOT_INSTALLED}
    monkeypatch.setattr(doctor, "_version", lambda name: known.get(name, "999"))
    rich, timm = sorted(doctor._ill_fitting())
    assert rich.startswith("rich is not installed, and vitscope needs >=13")
    assert timm.startswith("timm of version 0.4.12, and vitscope needs >=1.0")
    assert "pip install 'timm>=1.0" in timm


def test_little_room(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: USAGE(2**26, 0, 2**26))
    shared, disk = doctor._little_room()
    assert shared.startswith("little shared memory (64 MiB free)")
    assert "--workers 0" in shared
    assert disk.endswith("set TMPDIR to another disk")


def test_a_machine_on_which_it_does_not_work(monkeypatch):
    def wrong():
        raise VitscopeError("it takes a red star for a blue ring")

    monkeypatch.setattr(doctor, "_self_check", wrong)
    found = doctor.diagnose()
    assert not found.sound
    assert "red star for a blue ring" in found.troubles[-1]
    assert found.facts["self-check"] == {"failed": "VitscopeError: it takes a red star for a blue ring"}
