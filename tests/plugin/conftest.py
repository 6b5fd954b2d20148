"""A clean virtual environment with twigkit and strangers' packages, installed for real.

The environment sees the packages that twigkit depends on through a ``.pth`` file, and nothing is
fetched: twigkit itself and the plug-ins are built and installed by pip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "docs" / "examples" / "twigkit-hello"
PARTS = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "twigkit",
    "adapters",
    "heads",
    "strategies",
    "tasks",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "weights", "*.egg-info", ".*_cache", "build")


@dataclass
class Environment:
    """A virtual environment.

    Attributes:
        folder: Where it lies.
        sources: Where the packages' sources were copied.
        extra: Folders of packages that only some tests see.
    """

    folder: Path
    sources: Path
    extra: tuple[Path, ...] = ()

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *words, cwd=None):
        """Run a command of the environment; relative commands are its own scripts."""
        path = os.pathsep.join(map(str, self.extra))
        return subprocess.run(
            [str(self.folder / "bin" / words[0]), *map(str, words[1:])],
            cwd=cwd or self.sources,
            env={"PATH": os.defpath, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, *sources, target=None):
        """Install packages from their sources, and nothing else."""
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        options += ["--target", str(target)] if target else ["--ignore-installed"]
        done = self.run("python", "-m", "pip", "install", *options, *sources)
        assert done.returncode == 0, done.stdout + done.stderr

    def with_packages(self, folder, *sources):
        """The environment with more packages, in a folder that the others do not see."""
        self.install(*sources, target=folder)
        return Environment(self.folder, self.sources, (*self.extra, folder))

    def pytest(self, folder):
        """Run the tests of a package; return the last lines of what pytest said."""
        done = self.run("python", "-m", "pytest", "-p", "no:cacheprovider", cwd=folder)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return done.stdout


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment with twigkit and the example."""
    work = tmp_path_factory.mktemp("clean")
    sources = work / "sources"
    folder = work / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    made = Environment(folder, sources)
    outer = sysconfig.get_paths()["purelib"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "lib" / version / "site-packages" / "outer.pth").write_text(outer + "\n")
    core = sources / "twigkit"
    core.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, core / part, symlinks=True, ignore=LEFT_OUT)
        else:
            shutil.copy(ROOT / part, core)
    shutil.copytree(HELLO, sources / "twigkit-hello", ignore=LEFT_OUT)
    made.install(core, sources / "twigkit-hello")
    return made


def package(folder, name, modules):
    """Write the sources of a package of single modules: ``{module: source}``."""
    folder = folder / name
    folder.mkdir()
    points = "".join(f'{module} = "{module}"\n' for module in modules)
    listed = ", ".join(f'"{module}"' for module in modules)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n'
        f"[tool.setuptools]\npy-modules = [{listed}]\n"
        f"[project.entry-points.twigkit]\n{points}"
    )
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    return folder


@pytest.fixture(scope="session")
def write_package():
    """The function that writes the sources of a package."""
    return package
