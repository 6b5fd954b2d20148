"""The command line: quick help, one-line errors, commands of plug-ins."""

import importlib
import json
import os
import re
import resource
import subprocess
import sys
from importlib import metadata

import pytest

import twigkit
from tests.support.least_plugins import LEAST
from twigkit.cli.main import COMMANDS, GROUPS, main
from twigkit.errors import InputError, SpecError
from twigkit.plugins.discovery import default_registry
from twigkit.specs.runtime import RunSpec

GADGET = """
    from twigkit import InputError

    def add_arguments(parser):
        parser.add_argument("--turns", type=int, default=1)

    def run(args):
        if args.turns < 0:
            raise InputError("turns is -1\\nexpected 0 or more")
        print("turned", args.turns)
        return 7
"""


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "twigkit", *words], capture_output=True, text=True, check=False
    )


def told(capsys):
    """The one line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_help_answers_at_once():
    """Processor time is compared with that of a bare interpreter, on this machine and now."""
    start = _processor_seconds()
    subprocess.run([sys.executable, "-c", "import argparse, importlib.metadata"], check=True)
    bare = _processor_seconds() - start
    done = run("--help")
    used = _processor_seconds() - start - bare
    print(f"twigkit --help: {used:.3f} s of processor time, a bare interpreter {bare:.3f} s")
    assert done.returncode == 0
    assert used < 8 * bare, "torch alone takes some thirty times as long"
    for name, line in COMMANDS.items():
        assert name in done.stdout
        assert line.split()[0] in done.stdout


def _processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_imports_no_command_and_nothing_heavy():
    code = (
        "import sys; from twigkit.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("LOADED")[1].split())
    assert not loaded & {"torch", "transformers", "torch_geometric", "pydantic", "PIL", "yaml"}
    own = {name for name in loaded if name.startswith("twigkit.cli.")}
    assert own == {"twigkit.cli.main", "twigkit.cli.console"}


def test_help_of_a_command_imports_nothing_heavy():
    code = (
        "import sys; from twigkit.cli.main import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit: pass\n"
        "    if 'torch' in sys.modules: print('LOADED by', name); break\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED" not in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_keeps_the_contract(name, capsys):
    module = importlib.import_module(f"twigkit.cli.{name.replace('-', '_')}")
    assert callable(module.add_arguments)
    assert callable(module.run)
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: twigkit {name}" in capsys.readouterr().out


def test_no_command_prints_the_help(capsys):
    assert main([]) == 0
    assert "measure and look inside:" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("twigkit 0.")


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["spec"], ["spec", "bake"], ["plugins", "--nonsense"], ["spec", "check"]],
)
def test_a_wrong_command_line_is_one_line_and_status_2(words, capsys):
    assert main(words) == 2
    line = told(capsys)
    assert line.startswith("twigkit: error: ")
    assert "--help`" in line


def test_debug_shows_the_traceback():
    done = run("spec", "check", "missing.yaml", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SpecError" in done.stderr
    done = run("spec", "check", "missing.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["--debug", "spec", "check", "x.yaml"], ["spec", "check", "x.yaml", "--debug"]]
)
def test_debug_may_stand_before_or_after_the_command(words):
    with pytest.raises(SpecError):
        main(words)


def test_several_problems_still_make_one_line(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("twig: {base: b, depth: 0}\ngeneration: {budget: 0}\n")
    assert main(["spec", "check", str(path)]) == 2
    line = told(capsys)
    assert "twig.depth" in line
    assert "generation.budget" in line


def test_plugins_lists_every_entry(capsys):
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    for entry in default_registry().entries():
        (row,) = [
            line for line in table.splitlines() if line.split()[:2] == [entry.kind, entry.name]
        ]
        assert f"{entry.distribution} {entry.version}" in row
        assert entry.location in row
        assert all(word in row for word in entry.capabilities)


def test_plugins_as_json(capsys):
    assert main(["plugins", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(item["kind"], item["name"]) for item in document["plugins"]] == [
        (entry.kind, entry.name) for entry in default_registry().entries()
    ]
    assert document["plugins"][0].keys() == {
        "kind", "name", "distribution", "version", "module", "location", "spec", "capabilities"
    }  # fmt: skip


def test_plugins_shows_problems_below(fake_distribution, capsys):
    fake_distribution("broken-kit", plugins={"broken_mod": "import no_such_module_at_all"})
    assert main(["plugins"]) == 0
    captured = capsys.readouterr()
    below = captured.out.split("problems:")[1]
    assert "broken-kit 1.0" in below
    assert "no_such_module_at_all" in below
    assert captured.err == ""
    assert main(["plugins", "--json"]) == 0
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["distribution"] == "broken-kit"


def test_a_name_that_two_plugins_claim_is_shown_as_a_problem(fake_distribution, capsys):
    source = (
        f"from twigkit import hookimpl\n{LEAST['head']}"
        "@hookimpl\ndef register_heads(register): register('lm', Least)\n"
    )
    fake_distribution("usurper", plugins={"usurper_mod": source})
    assert main(["plugins"]) == 0
    told_of = capsys.readouterr().out.partition("problems:")[2]
    assert "usurper 1.0" in told_of
    assert "twigkit 0." in told_of


def test_spec_example_checks_out(tmp_path, capsys):
    for option, name in (([], "run.yaml"), (["--json"], "run.json")):
        assert main(["spec", "example", *option]) == 0
        (tmp_path / name).write_text(capsys.readouterr().out)
        assert RunSpec.from_file(tmp_path / name).generation.budget == 64
        assert main(["spec", "check", str(tmp_path / name)]) == 0
        assert "a valid run spec" in capsys.readouterr().out


def test_spec_schema_names_the_registered_kinds(capsys):
    assert main(["spec", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    drafter = schema["$defs"]["GenerationSpec"]["properties"]["drafter"]["anyOf"][0]
    assert drafter["enum"] == default_registry().names("drafter")
    assert main(["spec", "schema", "--of", "twig"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "TwigSpec"


def test_a_plugins_command_is_listed_unimported_and_runs(fake_distribution, capsys):
    fake_distribution("gadget-kit", version="2.5", commands={"gadget": GADGET})
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "From gadget-kit 2.5." in capsys.readouterr().out
    assert "gadget" not in sys.modules
    assert main(["gadget", "--turns", "3"]) == 7
    assert capsys.readouterr().out == "turned 3\n"
    assert main(["gadget", "--turns", "-1"]) == 2
    assert told(capsys) == "twigkit: error: turns is -1; expected 0 or more"
    with pytest.raises(InputError):
        main(["gadget", "--turns", "-1", "--debug"])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_at_all", "does not load: ModuleNotFoundError"),
        ("def run(args): pass", "has no `add_arguments`"),
        ("def add_arguments(parser): 1 / 0\ndef run(args): pass", "cannot say what it takes"),
        ("def add_arguments(parser): pass\ndef run(args): 1 / 0", "failed: ZeroDivisionError"),
    ],
)
def test_a_broken_command_names_its_distribution(fake_distribution, capsys, source, said):
    fake_distribution("gadget-kit", commands={"gadget": source})
    assert main(["gadget"]) == 2
    line = told(capsys)
    assert "gadget-kit 1.0" in line
    assert said in line


def test_entry_points_that_stop_imports_are_named(fake_distribution):
    """Torch reads all entry points when it is imported, whoever wrote them."""
    site = fake_distribution("gadget-kit")
    next(site.glob("*.dist-info/entry_points.txt")).write_text("[console_scripts]\nfoo\n")
    done = subprocess.run(
        [sys.executable, "-m", "twigkit", "presets"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("twigkit: error: the entry points of gadget-kit 1.0 (TypeError: ")
    assert said.endswith("Uninstall it or mend its entry_points.txt")


def test_a_plugin_cannot_take_a_built_in_command(fake_distribution, capsys):
    fake_distribution("gadget-kit", commands={"spec": GADGET})
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert "gadget-kit 1.0 brings the command 'spec', which is built in" in said.err
    assert "From gadget-kit" not in said.out
    assert main(["spec", "example"]) == 0


def test_a_command_that_two_distributions_bring_runs_neither(fake_distribution, capsys):
    fake_distribution("gadget-kit", commands={"gadget": GADGET})
    fake_distribution("rival-kit", version="2.0", commands={"gadget": GADGET})
    fake_distribution("fine-kit", commands={"widget": GADGET})
    assert main(["gadget"]) == 2
    line = told(capsys)
    assert "gadget-kit 1.0" in line
    assert "rival-kit 2.0 claims the name 'gadget' too; uninstall all but one" in line
    assert main(["widget", "--turns", "1"]) == 7


def test_a_reader_that_stops_early_is_no_error():
    code = "import twigkit.cli.main as m; m.main = lambda: print('x' * 10**6) or 0; m.entry()"
    done = subprocess.run(
        f'"{sys.executable}" -c "{code}" | true',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_verbose_says_on_stderr_what_is_done():
    done = run("plugins", "--json", "--verbose")
    assert json.loads(done.stdout)
    assert "twigkit.plugins.discovery: registered adapter" in done.stderr
    assert "registered adapter" not in run("plugins", "--json").stderr


def _limit_files():
    """Let the child write no file beyond a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))


def test_output_that_cannot_be_written_is_told_on_one_line(tmp_path):
    for words, buffered in (["--help"], ""), (["--help"], "1"), (["presets", "--json"], ""):
        (tmp_path / "out").write_bytes(bytes(10**6))
        with (tmp_path / "out").open("a") as full:
            done = subprocess.run(
                [sys.executable, "-m", "twigkit", *words],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                preexec_fn=_limit_files,
                env={**os.environ, "PYTHONUNBUFFERED": buffered},
            )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("twigkit: error: cannot write to stdout: ")


def test_a_closed_output_is_told_on_one_line():
    done = subprocess.run(
        f'"{sys.executable}" -m twigkit --help >&-',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "twigkit: error: stdout is closed; send it to a file or a pipe\n"


def test_the_help_shows_every_command_once_in_a_group(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert len(re.findall(rf"^  {re.escape(name)} ", said, re.MULTILINE)) == 1, name
        assert line.split()[0] in said
    assert set(COMMANDS) <= {name for names in GROUPS.values() for name in names}


def test_the_version_names_what_matters(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"twigkit {twigkit.__version__}"
    assert f"transformers {metadata.version('transformers')}" in said
