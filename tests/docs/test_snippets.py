"""Every command and snippet of README and docs runs, and every link leads somewhere.

A block whose fence says ``hub`` needs a large model: it is compiled or parsed here, and its test is
skipped beyond that unless ``--hub`` is given.
"""

import contextlib
import io
import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate.commands.launch import launch_command_parser

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.cli.main import main, parse
from twigkit.demo.language.__main__ import parser as language_parser
from twigkit.evaluation.spec import EvaluationSpec
from twigkit.evaluation.vlmeval import parser as vlmeval_parser
from twigkit.plugins.discovery import default_registry, discover
from twigkit.specs.runtime import RunSpec
from twigkit.training.spec import TrainingSpec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
HEADING = re.compile(r"^### `([\w-]+)` \((\w+)\)$", re.MULTILINE)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    marks: frozenset[str]
    text: str


WALKTHROUGHS = {"concepts.md", "tutorial.md", "porting.md", "pruner-advanced.md"}
"""Pages whose blocks build on each other; test_walkthroughs.py follows them."""


def blocks(language=None, walkthroughs=False):
    """Blocks of all pages but those that are followed from top to bottom."""
    found = []
    for page in PAGES:
        if page.name in WALKTHROUGHS and not walkthroughs:
            continue
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            marks = frozenset(match[2].split())
            found.append(Block(page, line, match[1], marks, match[3]))
    return [block for block in found if language in (None, block.language)]


def name(block):
    return f"{block.page.name}:{block.line}"


def with_hub(found):
    """Blocks as parameters; those marked ``hub`` are skipped with a reason."""
    for block in found:
        marks = [pytest.mark.hub] if "hub" in block.marks else []
        yield pytest.param(block, id=name(block), marks=marks)


@pytest.mark.parametrize("block", blocks(), ids=name)
def test_a_block_has_a_known_language_and_parses(block):
    shown = block.page.name == "troubleshooting.md"  # its messages are made by a script
    assert block.language != "text" or shown, "only pages that are followed can show output"
    assert block.language in {"python", "sh", "yaml", "toml", "json", "text"}, (
        "tests cannot run this language"
    )
    assert block.marks <= {"hub", "plug-in"}
    if block.language == "python":
        compile(block.text, name(block), "exec")
    if block.language == "toml":
        assert tomllib.loads(block.text)
    if block.language == "json":
        assert json.loads(block.text)


@pytest.mark.parametrize("block", list(with_hub(blocks("python"))))
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile(block.text, name(block), "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, {"__name__": "snippet"})


def test_the_whole_plugin_is_whole(fake_distribution):
    (block,) = [block for block in blocks("python") if "plug-in" in block.marks]
    site = fake_distribution("echo-kit", plugins={"echo_mod": block.text})
    found = discover([str(site)])
    assert found.problems == ()
    entry = found.registry.get("drafter", "echo")
    drafter = entry.make(entry.spec())
    model = TwigModel(tiny_llava())
    inputs = llava_inputs([(3, 1, 5), (4, 0, 0)])
    plain = model.generate(**inputs, drafter="plain", max_new_tokens=24)
    drafted = model.generate(**inputs, drafter=drafter, max_new_tokens=24)
    assert torch.equal(drafted, plain)
    assert drafted.stats.accepted_tokens > 0


def _runnable(command):
    """Run a command line of a shell block, or check it where running it would be setting up."""
    words = shlex.split(command)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words[1:])
        return
    if words == ["pip", "install", "."]:
        assert (ROOT / "pyproject.toml").exists()
        return
    if words[0] == "accelerate":  # needs the GPUs that its file names
        assert parse(_launched(words)[1:])[0]
        return
    assert words[0] == "twigkit", f"no way to check {command!r}"
    words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        assert main(words[1:]) == 0
    assert said.getvalue()
    if target:
        Path(target).write_text(said.getvalue())


@pytest.mark.parametrize("block", list(with_hub(blocks("sh"))))
def test_shell_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for command in block.text.replace("\\\n", " ").splitlines():
        _runnable(command)


def test_a_wrong_command_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("make tea", "twigkit nonsense", "rm -rf build"):
        with pytest.raises(AssertionError):
            _runnable(command)


def test_a_command_that_needs_the_hub_is_at_least_spelt_right():
    for block in blocks("sh"):
        for command in block.text.replace("\\\n", " ").splitlines():
            if "hub" in block.marks:
                words = _launched(shlex.split(command))
                if words[:3] == ["python", "-m", "lmms_eval"]:
                    continue  # another program's options; the integration tests run it
                if words[:3] == ["python", "-m", "twigkit.evaluation.vlmeval"]:
                    assert vlmeval_parser().parse_known_args(words[3:])[0].base
                    continue
                if words[:3] == ["python", "-m", "twigkit.demo.language"]:
                    assert language_parser().parse_args(words[3:]).work
                    continue
                assert words[0] == "twigkit"
                assert parse(words[1:])[0], name(block)


def _launched(words):
    """The command that accelerate starts in every process; its own options are checked."""
    if words[0] != "accelerate":
        return words
    place = words.index("-m")
    options = launch_command_parser().parse_args([*words[2 : place + 1], "twigkit"])
    assert words[1] == "launch"
    assert (ROOT / options.config_file).exists()
    return words[place + 1 :]


def _run(block):
    """Read a block of YAML as a run, on a made-up base unless it names one."""
    text = block.text if "twig:" in block.text else f"twig: {{base: base}}\n{block.text}"
    if "tasks:" in block.text:
        return EvaluationSpec.from_yaml(block.text)
    if "objective:" in block.text:
        return TrainingSpec.from_yaml(f"data: {{path: data.json}}\n{text}")
    return RunSpec.from_yaml(text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=name)
def test_yaml_is_a_valid_run(block):
    run = _run(block)
    assert type(run).from_yaml(run.to_yaml()) == run


def _example(entry):
    """The YAML block below the heading of a plug-in."""
    text = (ROOT / "docs" / "plugins.md").read_text()
    headings = list(HEADING.finditer(text))
    starts = [h.end() for h in headings if h.groups() == (entry.name, entry.kind)]
    assert len(starts) == 1, (
        f"docs/plugins.md needs one heading '### `{entry.name}` ({entry.kind})'"
    )
    match = FENCE.search(text, starts[0])
    assert match[1] == "yaml"
    return Block(ROOT / "docs" / "plugins.md", 0, "yaml", frozenset(), match[3])


BUILT_IN = [e for e in default_registry().entries() if e.distribution == "twigkit"]


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_built_in_plugin_has_an_example_with_all_its_settings(entry):
    block = _example(entry)
    run = _run(block)
    if entry.kind == "adapter":
        return
    spec = {
        "head": lambda: run.twig.heads[entry.name],
        "pruner": lambda: run.generation.pruner,
        "drafter": lambda: run.generation.drafter,
        "objective": lambda: run.objective,
        "task": lambda: run.tasks[0],
    }[entry.kind]()
    assert spec == entry.spec(), "the example shows the defaults"
    for field in entry.spec.model_fields:
        assert re.search(rf"^ +(?:- )?{field}:", block.text, re.MULTILINE), f"{field} is not shown"


def test_the_docs_show_no_plugin_that_is_not_there():
    text = (ROOT / "docs" / "plugins.md").read_text()
    shown = {(kind, name) for name, kind in HEADING.findall(text)}
    assert shown == {(entry.kind, entry.name) for entry in BUILT_IN}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if not target.startswith("https://"):
            assert os.path.exists(page.parent / target), target
