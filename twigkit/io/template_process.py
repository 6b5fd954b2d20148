"""The process in which chat templates are rendered that may take long or render much.

Started by :mod:`twigkit.io.chat_templates` as a program of its own. It reads a request of JSON per
line from its input and answers with a line each. Nothing of twigkit is imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def _bound(bytes_more: int) -> None:
    """Limit the address space to what it is now and some more, where the system can."""
    try:
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + bytes_more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        pass


def _render(request: dict[str, Any]) -> dict[str, str]:
    """Render one conversation."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, _ = render_jinja_template(conversations=[request.pop("conversation")], **request)
        return {"text": texts[0]}
    except BaseException as error:  # templates are programs, and raise what they like
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


def main() -> None:
    """Answer requests until the input ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    render_jinja_template(conversations=[[]], chat_template="{{ 1 }}")  # imports what it needs
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True}), file=answers, flush=True)
    _bound(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(_render(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
