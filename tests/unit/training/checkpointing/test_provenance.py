"""Where a run comes from is asked without running what a repository names."""

import os
import subprocess

import pytest

from twigkit.training.checkpointing.provenance import git_state


def git(folder, *words):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository whose file has to be read to know whether it has changed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("one")
    os.utime(folder / "file", (4e9, 4e9))  # younger than the index
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


SETTINGS = ("core.fsmonitor", "filter.a=b.c.clean", "filter.a=b.c.process", "core.sshCommand")


@pytest.mark.parametrize("setting", SETTINGS)
def test_programs_that_a_repository_names_do_not_run(repository, tmp_path, setting):
    proof, program = tmp_path / "proof", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    program.chmod(0o755)
    (repository / ".gitattributes").write_text("* filter=a=b.c\n")
    git(repository, "config", setting, str(program))
    git(repository, "config", "filter.a=b.c.required", "true")
    state = git_state(repository)
    assert len(state["commit"]) == 40
    assert not state["changed"]
    (repository / "file").write_text("two")
    assert git_state(repository)["changed"]
    assert not proof.exists()


def test_hooks_of_a_repository_do_not_run(repository, tmp_path):
    hook, proof = repository / ".git" / "hooks" / "post-index-change", tmp_path / "proof"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
    hook.chmod(0o755)
    os.utime(repository / "file", (4e9 + 1, 4e9 + 1))
    assert git_state(repository) is not None
    assert not proof.exists()


def test_outside_of_a_repository_there_is_nothing_to_say(tmp_path):
    assert git_state(tmp_path) is None
