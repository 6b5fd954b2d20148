"""Where a run comes from is asked without the file monitor that a repository names."""

import subprocess

from twigkit.training.checkpointing.provenance import git_state


def git(folder, *words):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True)


def test_a_repository_s_file_monitor_does_not_run(tmp_path):
    folder, proof = tmp_path / "repository", tmp_path / "proof"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("one")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    program.chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(program))
    state = git_state(folder)
    assert len(state["commit"]) == 40
    assert not state["changed"]
    (folder / "file").write_text("other")
    assert git_state(folder)["changed"]
    assert not proof.exists()
