"""Completion scripts hold what the parsers take, and shells that are there complete with them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from twigkit.cli.completion import bash, described, fish, zsh
from twigkit.cli.main import COMMANDS, main, whole_parser


@pytest.fixture(scope="module")
def root():
    return described(whole_parser())


def shell(name):
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    return name


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def by_bash(script, *words):
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in ("twigkit", *words))
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _twigkit"
    asked += "; printf '%s\\n' \"${COMPREPLY[@]}\""
    return run(shell("bash"), "--norc", "-c", f"{script}\n{asked}").split()


def by_fish(script, *words):
    """What fish offers for the last word."""
    line = " ".join(("twigkit", *words))
    said = run(shell("fish"), "--no-config", "-c", f"{script}\ncomplete -C '{line}'")
    return [offered.split("\t")[0] for offered in said.splitlines()]


def test_all_that_the_parsers_take_is_described(root):
    assert set(COMMANDS) <= {part.path[1] for part in root.parts}
    commands = {command.name: command for command in root.walk()}
    assert "twigkit show pruning" in commands
    options = {flag: o for o in commands["twigkit generate"].options for flag in o.flags}
    assert options["--dtype"].choices == ["auto", "float32", "bfloat16", "float16"]
    assert (options["--budget"].valued, options["--strict"].valued) == (True, False)
    assert commands["twigkit completion"].choices == ["bash", "zsh", "fish"]


@pytest.mark.parametrize(("name", "write"), [("bash", bash), ("zsh", zsh), ("fish", fish)])
def test_the_command_prints_a_script_that_the_shell_takes(name, write, root, capsys, tmp_path):
    assert main(["completion", name]) == 0
    said = capsys.readouterr().out
    assert said == write(root)
    (tmp_path / "script").write_text(said)
    run(shell(name), "-n", str(tmp_path / "script"))


CASES = [
    (("gen",), ["generate"]),
    (("show", ""), ["decoding", "pruning", "tree"]),
    (("generate", "--dty"), ["--dtype"]),
    (("generate", "--image", "cat.png", "--dtype", "b"), ["bfloat16"]),
    (("show", "pruning", "--fra"), ["--frames"]),
    (("completion", "z"), ["zsh"]),
]


@pytest.mark.parametrize(("words", "offered"), CASES, ids=lambda value: " ".join(value))
@pytest.mark.parametrize(("ask", "write"), [(by_bash, bash), (by_fish, fish)], ids=["bash", "fish"])
def test_a_shell_offers_what_fits(root, ask, write, words, offered):
    assert sorted(ask(write(root), *words)) == offered


@pytest.mark.parametrize("ask", [by_bash, by_fish])
def test_a_value_that_is_not_listed_is_a_file(root, ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").touch()
    found = ask(fish(root) if ask is by_fish else bash(root), "generate", "--image", "pic")
    assert found == (["picture.png"] if ask is by_fish else [])  # nothing: bash itself lists files


def test_zsh_offers_what_fits(root):
    """Its completion runs in a terminal only; the words that it would be handed are looked at."""
    script = re.sub(r"^(#compdef|compdef) .*$", "", zsh(root), flags=re.MULTILINE)
    asked = "_describe() { print -l -- $found }; _files() { print FILES }; _twigkit"
    for words, offered in (*CASES, (("generate", "--image", "pic"), ["FILES"])):
        line = " ".join(f"'{word}'" for word in ("twigkit", *words))
        place = f"words=({line}); CURRENT={len(words) + 1}"
        said = run(shell("zsh"), "-f", "-c", f"{script}\n{place}\n{asked}").splitlines()
        assert set(offered) <= {each.partition(":")[0] for each in said}
