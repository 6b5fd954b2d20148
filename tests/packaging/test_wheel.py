"""The wheel holds what the tree holds, and brings the plug-ins and the command along."""

import ast
import configparser
import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from twigkit.plugins.discovery import GROUP, sources

ROOT = Path(__file__).parents[2]
FOLDERS = {"twigkit": "twigkit"} | {
    f"twigkit/{name}": name for name in ("adapters", "heads", "strategies", "tasks")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tree(pattern):
    """Files of the package in the tree, by their path in the wheel."""
    found = set()
    for inside, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob(pattern):
            relative = path.relative_to(ROOT / folder)
            link = folder == "twigkit" and f"twigkit/{relative.parts[0]}" in FOLDERS
            if path.is_file() and not link and "__pycache__" not in relative.parts:
                found.add(f"{inside}/{relative.as_posix()}")
    return found


def copy_of_the_tree(copy):
    """What a wheel is built from, so that the checkout stays as it is."""
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in FOLDERS.values():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout stays as it is."""
    work = tmp_path_factory.mktemp("wheel")
    copy = copy_of_the_tree(work / "source")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(work), str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = work.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_package_is_listed_by_name():
    packages = {str(Path(path).parent).replace("/", ".") for path in tree("__init__.py")}
    assert sorted(packages) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_every_folder_with_code_is_a_package():
    folders = {str(Path(path).parent) for path in tree("*.py")}
    assert {f"{folder}/__init__.py" for folder in folders} <= tree("__init__.py")


def test_plugin_folders_hold_no_packages():
    for folder in ("adapters", "heads", "strategies", "tasks"):
        assert not [path for path in tree("*.py") if re.match(rf"twigkit/{folder}/.+/", path)]


def test_the_wheel_holds_every_module_and_nothing_else(names):
    assert {name for name in names if name.endswith(".py")} == tree("*.py")


def test_the_wheel_holds_the_data(names):
    data = {"twigkit/py.typed"} | {p for p in tree("*") if p.startswith("twigkit/demo/weights/")}
    data |= {path for path in tree("*.md") if path.startswith("twigkit/demo/")}
    data |= {"twigkit/demo/report.css", "twigkit/demo/report.html.jinja"}
    data |= {path for path in tree("*.tmpl") if path.startswith("twigkit/cli/template/")}
    data |= {path for path in tree("*") if path.startswith("twigkit/server/page/")}
    others = {name for name in names if ".dist-info/" not in name and not name.endswith(".py")}
    assert others == data


def test_the_wheel_holds_the_licence(names):
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]


def test_the_links_lead_to_the_folders():
    for inside, folder in FOLDERS.items():
        if inside != folder:
            assert (ROOT / inside).is_symlink()
            assert (ROOT / inside).resolve() == ROOT / folder


def test_an_unpacked_wheel_brings_the_plugins(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    found = list(sources(GROUP, [str(tmp_path)]))
    assert {source.name: source.target for source in found} == (
        PROJECT["project"]["entry-points"]["twigkit"]
    )
    for source in found:
        assert (tmp_path / Path(*source.target.split("."))).with_suffix(".py").exists()


def test_every_plugin_module_is_declared():
    declared = set(PROJECT["project"]["entry-points"]["twigkit"].values())
    modules = {
        path.removesuffix(".py").replace("/", ".")
        for path in tree("*.py")
        if re.match(r"twigkit/(adapters|demo|heads|strategies|tasks)/(?!__init__)", path)
        and "@hookimpl" in (ROOT / path).read_text()
    }
    assert modules == declared


def test_the_source_distribution_holds_what_the_wheel_is_built_from(tmp_path_factory):
    """Built as the wheel is: of a copy, with the backend that pyproject.toml names."""
    work = tmp_path_factory.mktemp("sdist")
    copy_of_the_tree(work / "source")
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools.build_meta as b; print(b.build_sdist('..'))"],
        cwd=work / "source", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = work.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= held
    for inside in tree("*.py") | {"twigkit/py.typed"} | tree("*.safetensors"):
        folder = "/".join(inside.split("/")[:2])
        source = inside.removeprefix("twigkit/") if folder in FOLDERS else inside
        assert source in held or inside in held, inside
    made = re.compile(
        r"twigkit\.egg-info/.*|PKG-INFO|setup\.cfg|pyproject\.toml|README\.md|LICENSE"
    )
    stray = {name for name in files if not made.fullmatch(name)} - tree("*")
    assert {name for name in stray if f"twigkit/{name}" not in tree("*")} == set()


def test_the_project_has_urls_and_every_extra_that_the_docs_name(wheel):
    assert PROJECT["project"]["urls"]
    assert all(url.startswith("https://") for url in PROJECT["project"]["urls"].values())
    extras = set(PROJECT["project"]["optional-dependencies"])
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"twigkit\[(\w+)\]", page.read_text())}
    assert {"serve", "ray"} <= named <= extras
    assert {"serve", "eval", "peft", "quant", "ray", "docs"} <= extras
    assert "Programming Language :: Python :: 3.13" in PROJECT["project"]["classifiers"]
    code = [path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py")]
    asked = {name for path in code for name in re.findall(r"twigkit\[([\w-]+)\]", path.read_text())}
    assert {"serve", "eval", "ray"} <= asked <= extras


@pytest.mark.parametrize(
    ("extra", "place"),
    [("serve", "twigkit/server"), ("eval", "twigkit/evaluation"), ("eval", "tasks"),
     ("ray", "twigkit/bulk/on_ray.py")],
)  # fmt: skip
def test_an_extra_installs_what_its_code_imports(extra, place):
    path = ROOT / place
    found = set().union(*map(_imported, [path] if path.is_file() else path.rglob("*.py")))
    assert found - _named(PROJECT["project"]["dependencies"]) - ELSEWHERE <= _named(
        PROJECT["project"]["optional-dependencies"][extra]
    )
    assert found & _named(PROJECT["project"]["optional-dependencies"][extra])


def test_the_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert scripts["console_scripts"]["twigkit"] == "twigkit.cli.main:entry"


def _pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _requirements():
    """All that are pinned; flash-attn is built for the torch and the GPU of whoever installs it."""
    extras = {
        k: v for k, v in PROJECT["project"]["optional-dependencies"].items() if k != "flash-attn"
    }
    listed = {
        *PROJECT["project"]["dependencies"],
        *(each for many in extras.values() for each in many),
    }
    return sorted(requirement for requirement in listed if not requirement.startswith("twigkit"))


NAMED = {"PIL": "pillow", "yaml": "pyyaml", "pydantic_core": "pydantic"}
"""Packages whose import has another name."""

ELSEWHERE = {"lmms_eval", "pynvml", "triton", "vlmeval"}
"""Imported by the entry point that lmms-eval itself loads, in a run of VLMEvalKit, or only where a
GPU's driver or torch's build for CUDA has it."""


def _imported(path):
    """The packages of others that a module imports, by the names that pip has for them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return {NAMED.get(name, name) for name in found - set(sys.stdlib_module_names) - {"twigkit"}}


def _named(requirements):
    """The packages that requirements name, as they are imported."""
    return {re.match(r"[\w-]+", each)[0].replace("-", "_") for each in requirements}


def test_every_package_that_is_imported_is_required():
    """What only happens to come along with something else may go with its next version."""
    inside = [path.removeprefix("twigkit/") for path in tree("*.py")]
    places = [p if p.split("/")[0] in FOLDERS.values() else f"twigkit/{p}" for p in inside]
    found = set().union(*(_imported(ROOT / place) for place in places))
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(each for extra in extras for each in extra)]
    assert found - ELSEWHERE <= _named(wanted)
    assert "torch" in found


@pytest.mark.parametrize("requirement", _requirements())
def test_a_requirement_is_a_range_and_its_pin_lies_in_it(requirement):
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    assert wanted.specifier
    assert "==" not in str(wanted.specifier)
    assert wanted.specifier.contains(_pins()[wanted.name])


def test_pins_are_plain_versions():
    assert _pins()
    for name, version in _pins().items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version)
