"""Chat templates give what transformers gives, or are ended within their bounds."""

import os
import signal

import pytest

from tests.support.processors import llava
from twigkit import CheckpointError
from twigkit.io import chat_templates
from twigkit.io.chat_templates import render_chat
from twigkit.io.processors import prepare
from twigkit.io.template_check import LARGEST, is_plain
from twigkit.training.data.chat_template import Renderer

TURNS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hé?\n"}]}]
MACRO = """{% macro part(x) %}{{ x.text or '<image>' }}{% endmacro %}{{ bos_token }}
{% for m in messages %}{% for c in m.content %}{{ part(c) }}{% endfor %}{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}"""
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def processor():
    return llava()


@pytest.mark.parametrize("template", [None, MACRO])
@pytest.mark.parametrize("ask", [True, False])
def test_the_text_is_that_of_transformers(processor, template, ask):
    assert template is None or not is_plain(template)
    options = {} if template is None else {"chat_template": template}
    own = processor.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=ask, **options)
    assert render_chat(processor, TURNS, ask=ask, template=template) == own


def test_a_template_without_end_is_ended_and_the_next_one_is_rendered(processor):
    with pytest.raises(CheckpointError, match=r"took more than 0\.5 s"):
        render_chat(processor, TURNS, ask=True, template=ENDLESS, seconds=0.5)
    assert "hé?" in render_chat(processor, TURNS, ask=True, template=MACRO)


@pytest.mark.parametrize("template", ["{{ 'a' * 3000000000 }}", "{{ 'a'.ljust(3000000000) }}"])
def test_memory_is_bounded(processor, template):
    with pytest.raises(CheckpointError, match=r"MemoryError|ended the process|took more than"):
        render_chat(processor, TURNS, ask=True, template=template)


def test_what_is_rendered_is_bounded(processor, monkeypatch):
    monkeypatch.setattr(chat_templates, "LONGEST", 1000)
    with pytest.raises(CheckpointError, match="rendered more than 1,000 characters"):
        render_chat(processor, TURNS, ask=True, template="{{ 'a' * 2000 }}")


def test_a_template_is_no_larger_than_a_mebibyte(processor):
    with pytest.raises(CheckpointError, match="more than 1,048,576"):
        render_chat(processor, TURNS, ask=True, template=" " * (LARGEST + 1))


def test_the_process_may_die(processor):
    assert render_chat(processor, TURNS, ask=True, template=MACRO)
    os.kill(chat_templates._processes[os.getpid()].pid, signal.SIGKILL)
    chat_templates._processes[os.getpid()].wait()
    assert render_chat(processor, TURNS, ask=True, template=MACRO)


def test_questions_and_samples_are_rendered_within_these_bounds(processor, monkeypatch):
    monkeypatch.setattr(processor, "chat_template", "{{ raise_exception('no ' * 2) }}")
    with pytest.raises(CheckpointError, match=r"the prompt \(TemplateError: no no\)") as refused:
        prepare(processor, "what ?")
    assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError, match="refuses it: TemplateError: no no;"):
        Renderer(processor)
