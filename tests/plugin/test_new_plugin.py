"""``twigkit new-plugin`` writes a package that passes its own tests as it stands."""

import pytest

from twigkit.cli.main import main
from twigkit.cli.new_plugin import write_package

from .conftest import HELLO


def files(folder):
    """Text of every file of a package's sources."""
    skip = {"__pycache__", ".pytest_cache", ".ruff_cache", "build"}
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not skip & set(path.parts) and ".egg-info" not in str(path)
    }


def told(capsys):
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_the_example_is_what_it_writes(tmp_path):
    write_package("hello", tmp_path / "twigkit-hello")
    assert files(tmp_path / "twigkit-hello") == files(HELLO)


def test_a_package_of_another_name_passes_its_own_tests(environment, tmp_path):
    done = environment.run("twigkit", "new-plugin", "two-words", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "twigkit-two-words"
    assert f"python -m pytest {folder}" in done.stdout
    assert not [name for name, text in files(folder).items() if "hello" in (name + text).lower()]
    other = environment.with_packages(tmp_path / "site", folder)
    assert " passed" in other.pytest(folder)


def test_the_prefix_may_be_given(tmp_path, capsys):
    assert main(["new-plugin", "twigkit-gadget", "--out", str(tmp_path)]) == 0
    assert str(tmp_path / "twigkit-gadget") in capsys.readouterr().out
    assert (tmp_path / "twigkit-gadget" / "src" / "twigkit_gadget" / "adapter.py").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "twigkit-gadget").mkdir()
    assert main(["new-plugin", "gadget", "--out", str(tmp_path)]) == 2
    assert "exists; choose another name, or another folder with --out" in told(capsys)
    assert list((tmp_path / "twigkit-gadget").iterdir()) == []


@pytest.mark.parametrize("name", ["Gadget", "two_words", "2fast", "a--b", "-a", "twigkit-", "a/b"])
def test_what_is_no_name_is_refused(tmp_path, capsys, name):
    assert main(["new-plugin", "--out", str(tmp_path), "--", name]) == 2
    assert "is no name for a plug-in" in told(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "said"), [("spec", "a command of twigkit"), ("ssd", "drafter")])
def test_a_name_that_is_taken_is_refused(tmp_path, capsys, name, said):
    assert main(["new-plugin", name, "--out", str(tmp_path)]) == 2
    assert said in told(capsys)
