"""What a start imports: help, the version and usage errors need no heavy library, and the package imports on demand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vitscope
from vitscope.models import registry

SOURCE = Path(vitscope.__file__).parents[1]
HEAVY = {"torch", "numpy", "timm", "torchvision", "scipy", "matplotlib", "PIL", "transformers", "pyarrow", "captum"}
LATER = {
    "torch._dynamo",
    "scipy.stats",
    "scipy.ndimage",
    "matplotlib",
    "timm",
    "torchvision",
    "transformers",
    "pyarrow",
    "captum",
}
"""What `vitscope.Explainer` needs only when it is called, or not at all."""

COMMANDS = """
import contextlib, io, json, sys
from vitscope.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["vitscope", *words.split()]
    output, said, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, output.getvalue().strip(), said.getvalue(), sorted(sys.modules)]))
"""
EACH_COMMAND = [
    "demo", "explain", "compare", "report", "describe", "flow", "bank build", "bank info", "models", "methods", "bench",
    "metrics", "datasets", "serve", "doctor",
]  # fmt: skip


def fresh(script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **variables}
    return subprocess.run(
        [sys.executable, "-c", script, *words], env=environment, capture_output=True, text=True, check=False
    )


def commands(*lines: str) -> list[tuple[int, str, str, set[str]]]:
    """Of each `vitscope LINE`, one after another in one process: exit code, output, errors, and all modules by then."""
    found = [json.loads(line) for line in fresh(COMMANDS, json.dumps(lines)).stdout.splitlines()]
    assert len(found) == len(lines)
    return [(code, output, said, set(modules)) for code, output, said, modules in found]


def imported_by(script: str) -> set[str]:
    """The modules after a script."""
    done = fresh(f"{script}\nimport sys, json; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_help_imports_no_heavy_library(subtests):
    lines = ["--help", *(f"{name} --help" for name in EACH_COMMAND)]
    for line, (code, output, said, modules) in zip(lines, commands(*lines), strict=True):
        with subtests.test(line):
            assert (code, said) == (0, "")
            assert "Usage: vitscope" in output
            assert not modules & HEAVY
            assert len(modules) < 600  # 350 to 450; it was 3,500


def test_the_version():
    ((code, output, said, modules),) = commands("--version")
    assert (code, output, said) == (0, f"vitscope {vitscope.__version__}", "")
    assert not modules & {*HEAVY, "rich"}


WRONG = {
    "explian": "Did you mean 'explain'",
    "--verison": "--version",
    "explain": "Missing argument",
    "explain a.png --model scenes": "Missing option",
    "explain a.png --metod daam": "--methods",
    "bench --limit x": "--limit",
    "explain a.png -m scenes -o o --store csv": "give parquet",
    "explain a.png -m scenes -o o --resume": "add --store parquet",
    "explain a.png -m scenes -o o --size big": "--size big",
    "explain a.png -m scenes -o o --precision bf17": "give float32 or bf16 or fp16",
    "explain a.png -m scenes -o o --activation relu": "give softmax or sigmoid or none",
    "bench -d scenes -m scenes -o o --resume --overwrite": "give one of them",
    "compare a.png -m scenes -o o.jpg": "give a name that ends so",
    "flow a.png -m scenes -o o.jpg": "give a name that ends so",
    "describe": "no model is named",
    "serve -m scenes --precision bf17": "give float32 or bf16 or fp16",
}
"""Command lines, and what is said of them."""


def test_usage_errors_import_no_heavy_library(subtests):
    for (line, says), (code, output, said, modules) in zip(WRONG.items(), commands(*WRONG), strict=True):
        with subtests.test(line):
            assert (code, output) == (2, "")
            (only,) = said.splitlines()
            assert says in only
            assert not modules & HEAVY


@pytest.mark.integration
def test_listings_need_torch_and_no_more():
    for code, output, _, modules in commands("methods", "metrics", "datasets"):
        assert code == 0
        assert output
        assert not modules & LATER


def test_ctrl_c_amid_the_imports_of_a_command(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    done = fresh(COMMANDS, '["methods"]', PYTHONPATH=os.pathsep.join([str(tmp_path), str(SOURCE)]))
    code, _, said, _ = json.loads(done.stdout)
    assert (code, said) == (130, "vitscope: interrupted; what was written is complete\n")


@pytest.mark.integration
def test_the_package_imports_nothing_heavy_until_it_is_used():
    assert not imported_by("import vitscope; dir(vitscope); vitscope.__version__") & HEAVY
    assert not imported_by("from vitscope import Explainer") & LATER
    assert not imported_by("import vitscope; vitscope.list_methods(), vitscope.list_metrics()") & LATER


def test_every_public_name_is_found_where_the_table_says():
    """The table of lazy names, the imports for type checkers and `__all__` are one list."""
    tree = ast.parse(Path(vitscope.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If)).body
    imports = [node for node in typed if isinstance(node, ast.ImportFrom)]
    for_checkers = {
        (node.module.removeprefix("vitscope.").partition(".")[0] if node.module != "vitscope" else name.name, name.name)
        for node in imports
        for name in node.names
    }
    table = {(module, name) for name, module in vitscope._MODULE_OF.items()}
    assert for_checkers == {*table, ("methods", "methods"), ("targets", "targets")}
    assert {name for _, name in for_checkers} == set(vitscope.__all__)
    assert set(vitscope.__all__) <= set(dir(vitscope))
    everything: dict[str, object] = {}
    exec("from vitscope import *", everything)
    assert set(vitscope.__all__) <= set(everything)


@pytest.mark.integration
def test_modules_are_attributes_and_other_names_are_none():
    assert fresh("import vitscope; vitscope.models.load; vitscope.targets.Text; vitscope.bench.Plan").returncode == 0
    assert fresh("from vitscope import methods, errors, trace; methods.CDAM").returncode == 0
    with pytest.raises(AttributeError, match="module 'vitscope' has no attribute 'explayn'"):
        _ = vitscope.explayn
    with pytest.raises(ImportError, match="cannot import name 'explayn' from 'vitscope'"):
        exec("from vitscope import explayn")


THREADS = """
import threading, vitscope
words = [f"vitscope.{name}" for name in vitscope.__all__]
words += [f"import vitscope.{name}" for name in
          ("datasets", "models", "targets", "methods", "metrics", "images", "trace", "bench", "report", "view", "bank")]
start, failed = threading.Barrier(len(words)), []
def one(word):
    start.wait()
    try:
        exec(word)
    except BaseException as error:
        failed.append((word, error))
threads = [threading.Thread(target=one, args=(word,)) for word in words]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
"""


@pytest.mark.integration
def test_threads_may_import_at_once():
    done = fresh(THREADS)
    assert done.returncode == 0, done.stderr


def test_every_module_with_adapters_is_imported_for_them():
    folder = Path(vitscope.__file__).parent / "models"
    files = [file.relative_to(folder) for file in folder.rglob("*.py") if "\n@register_adapter(" in file.read_text()]
    assert {file.parts[0].removesuffix(".py") for file in files} == set(registry._OWN)
    assert {name for name in vitscope.models.families() if name.startswith("transformers ")} == {
        f"transformers {family}" for family in ("BEiT", "CLIP", "DINOv2", "DINOv3", "SigLIP", "Swin", "ViT")
    }


@pytest.mark.integration
def test_adapters_of_others_come_behind_those_of_vitscope():
    script = """
from vitscope.models import Anatomy, families, register_adapter
from vitscope.models.registry import _ADAPTERS
register_adapter("mine")(lambda model: None)
assert list(_ADAPTERS)[-1] == "mine" and len(_ADAPTERS) > 15, list(_ADAPTERS)
try:
    register_adapter("timm VisionTransformer")(lambda model: None)
except ValueError as error:
    assert "registered already" in str(error)
else:
    raise AssertionError
"""
    done = fresh(script)
    assert done.returncode == 0, done.stderr
