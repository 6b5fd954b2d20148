"""The process that renders chat templates answers each line with a line."""

import json
import subprocess
import sys

from twigkit.io import template_process

HELLO = {"conversation": [{"role": "user", "content": "hi"}], "add_generation_prompt": True}


def test_requests_are_answered_in_order_and_errors_are_answers():
    templates = ["{{ messages[0].content }}", "{{ raise_exception('no\nmore') }}", "{{ x }}!"]
    requests = [{**HELLO, "chat_template": template, "x": 3} for template in templates]
    done = subprocess.run(
        [sys.executable, "-P", template_process.__file__, str(1 << 30)],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    first, *answers = map(json.loads, done.stdout.splitlines())
    assert first == {"ready": True}
    assert answers == [{"text": "hi"}, {"error": "TemplateError: no"}, {"text": "3!"}]
