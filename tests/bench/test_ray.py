"""Ray's workers give the rows of the local engine, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vitscope.bench.run as running
from vitscope import Explainer, cli
from vitscope.bench import OnRay, bench, make_plan, plan_maps, store_maps
from vitscope.datasets import Scenes
from vitscope.errors import VitscopeError
from vitscope.targets import Predicted

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("ray")]  # one Ray for all of them

METHODS = "cdam,agcam,random"


@pytest.fixture(scope="module")
def one_thread():
    """The bits of a sum hang on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ray(one_thread):
    """Connected already, with room for two workers."""
    library = pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        library.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield library
    library.shutdown()


@pytest.fixture(scope="module")
def explainer():
    return Explainer("scenes")


@pytest.fixture
def folder(tmp_path):
    """Seven pictures with masks; the second is none."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    lines = ["image,label"]
    for index, scene in enumerate(Scenes(7, seed=int(np.random.default_rng().integers(1000)))):
        Image.fromarray(scene.image).save(tmp_path / "data" / "images" / f"{index}.png")
        Image.fromarray(scene.mask().astype(np.uint8) * 255).save(tmp_path / "data" / "masks" / f"{index}.png")
        lines.append(f"{index}.png,{scene.labels[0]}")
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"no picture")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "data"


@pytest.fixture
def plan(explainer, folder):
    return make_plan(explainer, "masks", folder, methods=METHODS, metrics="agcam,energy,grid_pointing", part_size=2)


def parts(folder):
    return {file.name: file.read_bytes() for file in (folder / "parts").iterdir()}


class Dying:
    """A worker that dies at the first part, once or always, and raises at the last but one."""

    def __init__(self, worker, marks, always):
        self.worker, self.marks, self.always = worker, Path(marks), always

    def compute(self, part, advance):
        with (self.marks / "pids").open("a") as file:
            file.write(f"{part.index} {os.getpid()}\n")
        if part.index == 0 and (self.always or not (self.marks / "died").exists()):
            (self.marks / "died").touch()
            os._exit(1)
        if part.index == 2 and self.always:
            raise RuntimeError("no such\nnumber")
        return self.worker.compute(part, advance)


def dying(marks, always, plan, batch_size, explainer, say):
    say("ready")
    return Dying(running.Worker(plan, explainer=explainer, batch_size=batch_size, say=say), marks, always)


def refusing(plan, batch_size, explainer, say):
    raise VitscopeError("the disk of this machine is not mounted; mount it")


def test_rows_are_the_local_engines_and_a_run_goes_on(ray, plan, explainer, tmp_path):
    local = bench(plan, tmp_path / "local", explainer=explainer, batch_size=2)
    seen = []
    outcome = bench(
        plan,
        tmp_path / "ray",
        explainer=explainer,
        batch_size=2,
        engine=OnRay(2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")
    assert len(parts(tmp_path / "ray")) == 4
    assert (outcome.failed, outcome.left_out, outcome.computed) == (1, local.left_out, 4)
    assert seen[0] == (0, 7)
    assert seen[-1] == (7, 7)
    assert sorted(seen) == seen
    rows = pq.read_table(tmp_path / "ray" / "parts").to_pylist()
    assert {row["image"] for row in rows if row["error"]} == {"1"}
    manifest = json.loads((tmp_path / "ray" / "manifest.json").read_text())
    assert (manifest["status"], manifest["engine"], manifest["workers"]) == ("complete", "ray", 2)
    kept = (tmp_path / "ray" / "parts" / "part-00001.parquet").stat().st_mtime_ns
    for name in ("part-00000", "part-00003"):
        (tmp_path / "ray" / "parts" / f"{name}.parquet").unlink()
    seen.clear()
    again = bench(
        plan, tmp_path / "ray", batch_size=2, resume=True, engine=OnRay(1), progress=lambda *s: seen.append(s)
    )
    assert again.computed == 2
    assert seen[0] == (4, 7)
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")
    assert (tmp_path / "ray" / "parts" / "part-00001.parquet").stat().st_mtime_ns == kept
    assert ray.is_initialized()


def test_maps_are_the_local_engines(ray, explainer, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    pictures = sorted(str(path) for path in Path("images").iterdir())
    made = plan_maps(explainer, pictures, "cdam,attention", Predicted(), part_size=2)
    store_maps(made, explainer, Predicted(), tmp_path / "local")
    outcome = store_maps(made, explainer, Predicted(), tmp_path / "ray", engine=OnRay(1))
    assert (outcome.failed, outcome.computed) == (1, 4)
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")


def test_a_worker_that_dies_is_replaced_and_its_part_computed_again(ray, plan, explainer, tmp_path, monkeypatch):
    bench(plan, tmp_path / "local", explainer=explainer, batch_size=2)
    monkeypatch.setattr(running, "worker_of", partial(dying, str(tmp_path), False))
    said = []
    outcome = bench(plan, tmp_path / "o", explainer=explainer, batch_size=2, engine=OnRay(1), say=said.append)
    assert outcome.computed == 4
    assert parts(tmp_path / "o") == parts(tmp_path / "local")
    tried = [tuple(map(int, line.split())) for line in (tmp_path / "pids").read_text().splitlines()]
    assert sorted(index for index, _ in tried) == [0, 0, 1, 2, 3]
    assert [index for index, _ in tried][:2] == [0, 0]
    assert len({pid for _, pid in tried}) == 2
    deaths = [line for line in said if "died" in line]
    assert len(deaths) == 1
    assert deaths[0].startswith("a worker died at part-00000 (ActorDiedError: ")
    assert sum(line.endswith("ready") for line in said) >= 1


@pytest.mark.slow  # four workers start, one after another
def test_parts_that_cannot_be_computed_are_told_and_the_others_are_there(ray, plan, explainer, tmp_path, monkeypatch):
    bench(plan, tmp_path / "local", explainer=explainer, batch_size=2)
    monkeypatch.setattr(running, "worker_of", partial(dying, str(tmp_path), True))
    said = []
    with pytest.raises(VitscopeError, match=r"2 of 4 parts are not computed \(part-0000") as caught:
        bench(plan, tmp_path / "o", explainer=explainer, batch_size=2, engine=OnRay(2), say=said.append)
    assert str(caught.value).endswith("run again with --resume")
    assert sorted(parts(tmp_path / "o")) == ["part-00001.parquet", "part-00003.parquet"]
    assert any(line.startswith("part-00002 fails (RuntimeError: no such number)") for line in said)
    assert sum("died at part-00000" in line for line in said) == 3
    monkeypatch.undo()
    assert bench(plan, tmp_path / "o", batch_size=2, resume=True, engine=OnRay(1)).computed == 2
    assert parts(tmp_path / "o") == parts(tmp_path / "local")


def test_workers_that_cannot_start_are_one_line(ray, plan, explainer, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "worker_of", refusing)
    with pytest.raises(VitscopeError, match=r"^no worker of Ray's can start: the disk of this machine is not mounted"):
        bench(plan, tmp_path / "o", explainer=explainer, engine=OnRay(1))


def test_a_model_that_cannot_be_sent_is_one_line(ray, plan, tmp_path):
    explainer = Explainer("scenes")
    explainer.anatomy.model.lock = threading.Lock()
    with pytest.raises(VitscopeError, match="cannot be sent to Ray's workers"):
        bench(plan, tmp_path / "o", explainer=explainer, engine=OnRay(1))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "ray", "--gpus-per-worker", "1.5"], "--gpus-per-worker 1.5: give a whole number"),
        (["--gpus-per-worker", "2"], "add --engine ray"),
        (["--address", "auto"], "add --engine ray"),
    ],
)
def test_wrong_use_is_one_line(words, says, tmp_path, monkeypatch, capsys):
    code, err = command(monkeypatch, capsys, tmp_path / "o", *words)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, err = command(monkeypatch, capsys, tmp_path / "o", "--engine", "ray")
    assert code == 2
    assert 'pip install "vitscope[ray]"' in err
    assert len(err.strip().splitlines()) == 1


def command(monkeypatch, capsys, out, *words):
    """`vitscope bench` on a few scenes; its exit code and the error stream."""
    given = ["bench", "-d", "scenes:count=3", "-m", "scenes", "--methods", "cdam", "--metrics", "energy"]
    monkeypatch.setattr(sys, "argv", ["vitscope", *given, "--out", str(out), *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code or 0, capsys.readouterr().err


def words_of(out, *more):
    given = ["-d", "scenes:count=192", "-m", "scenes", "--methods", "cdam,frame", "--metrics", "agcam"]
    return [sys.executable, "-c", "from vitscope import cli; cli.main()", "bench", *given, "--out", str(out), *more]


def marked(mark):
    """Command lines and environments of the processes that have inherited a variable."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes()
            if mark.encode() in environment:
                found.append(((process / "cmdline").read_bytes(), environment))
        except OSError:
            continue
    return found


def left_after(mark, seconds):
    """The marked processes that do not end within a time."""
    until = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
def test_a_killed_command_leaves_no_process_and_goes_on(one_thread, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    mark, home = uuid.uuid4().hex, Path(cli.__file__).parents[2]
    environment = {**os.environ, "MARK": mark, "PYTHONPATH": str(home)}
    more = ["--engine", "ray", "--workers", "2"]
    with subprocess.Popen(words_of(tmp_path / "ray", *more), env=environment) as process:
        while not (tmp_path / "ray" / "parts").is_dir() or not parts(tmp_path / "ray"):
            assert process.poll() is None
            time.sleep(0.05)
        servers = [there for command, there in marked(mark) if b"raylet" in command or b"gcs_server" in command]
        assert servers
        assert all(b"RAY_USAGE_STATS_ENABLED=0" in there for there in servers)
        process.send_signal(signal.SIGKILL)
    assert not left_after(mark, 180)  # the last to see it is the agent of Ray, which looks now and then
    subprocess.run(words_of(tmp_path / "ray", *more, "--resume"), env=environment, check=True)
    assert not left_after(mark, 30)
    subprocess.run(words_of(tmp_path / "local"), env=environment, check=True)
    whole = {name: content for name, content in parts(tmp_path / "ray").items() if not name.startswith(".")}
    assert whole == parts(tmp_path / "local")


@pytest.mark.slow
def test_a_cluster_by_its_address(ray, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    address = ray.get_runtime_context().gcs_address
    more = ["--engine", "ray", "--workers", "3", "--address", address]
    done = subprocess.run(
        words_of(tmp_path / "ray", *more), env=environment, check=True, capture_output=True, text=True
    )
    assert "3 workers need 3 CPUs, and Ray has 2; those that find no room wait for it" in done.stderr
    assert len(parts(tmp_path / "ray")) == 3
    assert ray.cluster_resources()["CPU"] == 2


@pytest.mark.slow
def test_a_cluster_that_is_not_there_and_gpus_that_are_not(one_thread, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    if torch.cuda.is_available():
        pytest.skip("there are GPUs")
    more = ["--engine", "ray", "--gpus-per-worker", "1"]
    done = subprocess.run(words_of(tmp_path / "o", *more), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("give fewer --workers, or a smaller --gpus-per-worker")
    more = ["--engine", "ray", "--address", "127.0.0.1:1"]
    done = subprocess.run(words_of(tmp_path / "p", *more), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--address 127.0.0.1:1: no Ray cluster answers" in done.stderr.splitlines()[-1]
