"""A read-only disk: exit code 2 and one line that says so, from every command that writes."""

from __future__ import annotations

import subprocess

import pytest

WRITERS = {
    "pictures": ("explain", "PICTURE", "--out", "DISK/o", "--methods", "cdam"),
    "folder that is there": ("explain", "PICTURE", "--out", "DISK/there", "--methods", "cdam"),
    "maps": ("explain", "PICTURE", "--out", "DISK/o", "--methods", "cdam", "--store", "parquet"),
    "sheet": ("compare", "PICTURE", "--out", "DISK/a.png", "--methods", "cdam"),
    "flow": ("flow", "PICTURE", "--out", "DISK/a.png"),
    "rows": ("bench", "--dataset", "scenes:count=2", "--metrics", "energy", "--methods", "cdam", "--out", "DISK/there"),
    "bank": ("bank", "build", "--root", "PICTURES", "--out", "DISK/b.safetensors"),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system that cannot be written, with a folder in it."""
    folder = tmp_path_factory.mktemp("disk")
    for options in (["-t", "tmpfs", "tmpfs"], ["-o", "remount,ro"]):
        if options[0] == "-o":
            (folder / "there").mkdir()
        done = subprocess.run(["mount", *options, folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_read_only_disk_is_one_line(kind, disk, pictures, run):
    words = [
        word.replace("PICTURES", str(pictures)).replace("PICTURE", str(pictures / "0.png")).replace("DISK", str(disk))
        for word in WRITERS[kind]
    ]
    code, _, err = run(*words, "--model", "scenes")
    assert code == 2, err
    (line,) = [line for line in err.splitlines() if "Read-only file system" in line]
    assert line.startswith("vitscope: ")
    assert str(disk) in line
    assert "Traceback" not in err
