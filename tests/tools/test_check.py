"""Which tests a change selects."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tools.check import AREAS, LONG, WIDE, Tree, select

from tests.zoo import ZOO
from tools import check

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree():
    return Tree(ROOT)


def files(tree, *changed):
    return select(tree, changed).files


def test_every_module_has_a_test(tree):
    without = [path for path in tree.modules.values() if not check.tests_of(tree, path)]
    assert without == []


def test_other_files_of_the_package_have_tests_too(tree):
    package = ROOT / "src" / "vitscope"
    others = [path for path in package.rglob("*.*") if path.suffix in (".js", ".css", ".j2", ".json", ".safetensors")]
    assert others
    assert [str(path) for path in others if not check.tests_of(tree, path.relative_to(ROOT).as_posix())] == []


def test_a_test_file_is_itself(tree):
    assert files(tree, "tests/images/test_images.py") == {"tests/images/test_images.py": frozenset()}


def test_a_module_selects_the_file_of_its_name_whole(tree):
    assert files(tree, "src/vitscope/images/notes.py")["tests/images/test_notes.py"] == frozenset()
    assert files(tree, "src/vitscope/models/windowed.py")["tests/models/test_windowed.py"] == frozenset()


def test_importers_are_found_also_through_packages(tree):
    assert tree.home("vitscope.trace.Chunks") == "vitscope.trace.chunks"
    assert tree.home("vitscope.Explainer.features") == "vitscope.explainer"
    assert tree.home("vitscope.methods.cdam.CDAM") == "vitscope.methods.cdam"
    assert tree.home("elsewhere.Thing") == ""
    assert "tests/trace/test_chunks.py" in files(tree, "src/vitscope/trace/chunks.py")
    assert "tests/models/test_changes.py" in files(tree, "src/vitscope/models/state.py")


def test_of_long_files_only_the_tests_that_name_a_module_are_selected(tree):
    for path in tree.modules.values():
        stem = Path(path).parent.name if path.endswith("__init__.py") else Path(path).stem
        for test, words in check.tests_of(tree, path).items():
            assert words or test not in LONG or test.endswith(f"/test_{stem}.py"), (path, test)


def test_a_method_selects_the_contract_and_the_tests_that_name_it(tree):
    found = files(tree, "src/vitscope/methods/cdam.py")
    assert {"vit", "distilled"} <= found["tests/methods/test_contract.py"]
    assert "cdam" in found["tests/methods/test_fidelity.py"]
    assert "tests/bench/test_store.py" not in found
    assert {"gradcam", "layercam"} <= files(tree, "src/vitscope/methods/cams.py")["tests/methods/test_fidelity.py"]


def test_an_adapter_selects_its_models_of_the_zoo(tree):
    words = files(tree, "src/vitscope/models/timm_class_attention.py")["tests/models/test_zoo.py"]
    assert words == {"cait_xxs24_224", "xcit_nano_12_p16_224", "convit_tiny"}


def test_the_words_of_areas_are_found_in_their_tests(tree):
    """A test, a layout or a model of the zoo that was renamed would select nothing."""
    ids = {"tests/models/test_zoo.py": " ".join(f"{entry.family}-{entry.name}" for entry in ZOO)}
    ids["tests/methods/test_contract.py"] = (ROOT / "tests" / "conftest.py").read_text("utf-8")
    for _, patterns in AREAS:
        for test, _, words in (pattern.partition(": ") for pattern in patterns):
            assert "*" in test or "[" in test or test in tree.tests, test
            for word in words.split():
                assert check.holds(tree.tests[test] + ids.get(test, ""), word), (test, word)
    assert set(tree.tests) >= LONG >= WIDE


def test_words_of_several_changes_are_joined_and_a_whole_file_stays_whole(tree):
    both = files(tree, "src/vitscope/methods/cdam.py", "src/vitscope/methods/agcam.py")
    assert {"cdam", "agcam"} <= both["tests/methods/test_fidelity.py"]
    test = "tests/methods/test_fidelity.py"
    for changed in ((test, "src/vitscope/methods/cdam.py"), ("src/vitscope/methods/cdam.py", test)):
        assert files(tree, *changed)[test] == frozenset()


def test_pages_and_what_has_no_test(tree):
    assert "tests/test_docs.py" in files(tree, "README.md")
    nowhere = f"docs/{'no' * 3}.md"
    found = select(tree, [nowhere, "pyproject.toml"])
    assert (found.files, found.without) == ({}, [nowhere, "pyproject.toml"])
    assert "no unmarked test is selected for pyproject.toml" in check.says(found)
    assert "make test" in check.says(found)[-1]


def test_modules_outside_of_the_package(tree):
    assert "tests/tools/test_check.py" in files(tree, "tools/check.py")
    assert "tests/benchmarks/test_precision.py" in files(tree, "benchmarks/precision.py")


def test_arguments_of_pytest(tree):
    found = select(tree, ["src/vitscope/methods/cdam.py"])
    arguments = check.arguments_of(found)
    assert arguments[:2] == ["-m", "not slow and not integration"]
    assert any(one.startswith("--only=tests/methods/test_fidelity.py:") for one in arguments)
    assert check.processes_of(found)
    assert not check.processes_of(select(tree, ["src/vitscope/images/notes.py"]))


def test_the_plugin_keeps_what_holds_a_word_and_all_of_other_files():
    def item(nodeid):
        return SimpleNamespace(nodeid=nodeid, function=item)

    ids = ["tests/a.py::test_x[vit-1]", "tests/a.py::test_x[vitality]", "tests/a.py::test_vit", "tests/b.py::test_y"]
    left_out = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config = SimpleNamespace(option=SimpleNamespace(only=["tests/a.py:vit,other"]), hook=hook)
    items = [item(nodeid) for nodeid in ids]
    check.pytest_collection_modifyitems(config, items)
    assert [one.nodeid for one in items] == [ids[0], ids[3]]
    assert [one.nodeid for one in left_out] == [ids[1], ids[2]]
    config.option.only = ["tests/a.py:SimpleNamespace"]  # in the source
    items = [item(nodeid) for nodeid in ids]
    check.pytest_collection_modifyitems(config, items)
    assert len(items) == 4


def test_main_lists_what_it_would_run(capsys):
    assert check.main(["--list", "src/vitscope/images/notes.py", "LICENSE"]) == 0
    said = capsys.readouterr().out
    assert "tests/images/test_notes.py\n" in said
    assert "no unmarked test is selected for LICENSE" in said
