"""``twigkit serve`` as a process of its own, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

ANNOUNCED = re.compile(r"serving (\S+) at (http://\S+)")


class ServerProcess:
    """A server of the built-in model on a free port; use it in a ``with``.

    Attributes:
        name: Name of the model.
        url: Where it answers.
        process: The process.
    """

    def __init__(self, *options: str) -> None:
        """Start it; it answers once :meth:`__enter__` has returned."""
        command = [sys.executable, "-m", "twigkit", "serve", "--port", "0", *options]
        # What is only for tests and clients lies on PYTHONPATH; a server has none of it.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        self.name = self.url = ""
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def __enter__(self) -> ServerProcess:
        """Wait until it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = ANNOUNCED.match(line)
        if found is None:
            self.stop()
            raise AssertionError(f"the server said {line!r} and {''.join(self.errors)}")
        self.name, self.url = found[1], found[2]
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()

    def stop(self) -> int:
        """Tell it to stop; return its exit status."""
        self.process.terminate()
        try:
            status = self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(5)
        return status

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors += self.process.stderr
