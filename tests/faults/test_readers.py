"""A process that reads pictures is killed while a command runs: it is said, and no picture is missing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest


@pytest.mark.integration
@pytest.mark.parametrize("more", [(), ("--store", "parquet")])
def test_a_killed_reader_costs_no_picture(more, pictures, run, tmp_path):
    before = {one.pid for one in multiprocessing.active_children()}
    killed = []

    def kill():
        while not killed:
            for one in multiprocessing.active_children():
                if one.pid not in before:
                    os.kill(one.pid, signal.SIGKILL)
                    killed.append(one.pid)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    words = ("--model", "scenes", "--methods", "cdam", "--batch-size", "1", "--workers", "1", "--out", tmp_path / "o")
    code, _, err = run("explain", pictures, *words, *more)
    thread.join(5)
    assert killed
    assert code == 0, err
    assert "a process that reads pictures died; the rest are read in this one" in err
    content = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert (content["images"] if more else len(content["written"])) == 6
    assert not content["failed"]
