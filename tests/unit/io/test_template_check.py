"""Published chat templates are plain; what could run long or render much is not."""

import pytest

from tests.support import processors
from tests.support.checkpoints import CHAT
from tests.support.talks import TEMPLATE
from twigkit.io.template_check import is_plain

SYSTEM = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}
{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}
{% set system = false %}{% endif %}{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}
{% if loop.index0 == 0 and system != false %}
{% set content = '<<SYS>>' + system + '<</SYS>>' + message['content'] %}{% else %}
{% set content = message['content'] %}{% endif %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endfor %}"""
COUNTING = """{% set images = namespace(value=0) %}{% for message in messages %}
{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}
{% set images.value = images.value + 1 %}Picture {{ images.value }}: <pad>
{% elif 'text' in part %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endfor %}"""
MARKED = """{% for m in messages %}{%- generation %}{{ m.content | tojson }}{%- endgeneration %}
{% endfor %}"""
GATHERED = """{% set ns = namespace(text='') %}{% for m in messages %}
{% set ns.text = ns.text + m.content + '\\n' %}{% endfor %}{{ ns.text }}"""


@pytest.mark.parametrize(
    "template",
    [
        *(getattr(processors, name) for name in ("VICUNA", "INSTRUCT", "UTTERANCE", "TURN")),
        processors.CHATML,
        CHAT,
        TEMPLATE,
        SYSTEM,
        COUNTING,
        MARKED,
        GATHERED,
    ],
)
def test_templates_that_walk_through_a_conversation_are_plain(template):
    assert is_plain(template)


CARRIED = "{% set ns = namespace(x='a') %}{% for m in messages %}REST{% endfor %}{{ ns.x }}"
HOSTILE = [
    "{{ 'a' * 3000000000 }}",
    "{{ 2 ** 100000000 }}",
    "{{ 'a' | center(1000) }}",
    "{{ 'a'.ljust(1000) }}",
    "{{ '%99d' % 1 }}",
    "{{ '{:>99}'.format(1) }}",
    "{{ lipsum(100) }}",
    "{{ range(100000) }}",
    "{{ messages | tojson(indent=999999999) }}",
    "{{ messages | map('center', 99) | list }}",
    "{{ messages | batch(99) }}",
    "{{ 'x'.replace('x', 'yy') }}",
    "{{ 'x'.replace('', 'y') }}",
    "{{ strftime_now('%999d') }}",
    "{% macro f(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}",
    "{% for m in messages %}{% for c in m.x %}{% for d in m %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for m in messages %}{% for c in m.x ~ m.x %}{% endfor %}{% endfor %}",
    "{% for m in messages %}{% set x = m %}{% for c in x %}{% endfor %}{% endfor %}",
    "{% set x = 'a' %}" + "{% set x = x ~ x %}" * 13,
    "{% set x = '\"' %}" + "{% set x = x | tojson %}" * 5,
    "{% set x %}{{ messages }}{% endset %}",
    "{% filter upper %}a{% endfilter %}",
    CARRIED.replace("REST", "{% set ns.x = ns.x + ns.x %}"),
    CARRIED.replace("REST", "{% set y = ns.x %}{% set ns.x = y + ns.x %}"),
    CARRIED.replace("REST", "{% for c in ns.x %}{% set ns.x = ns.x + c %}{% endfor %}"),
    CARRIED.replace("REST", "{% set ns.x = [ns.x, ns.x] %}"),
    CARRIED.replace("REST", "{% set ns.x = ns.x | tojson %}"),
    CARRIED.replace("REST", "{% set ns.x = ns.x | e %}"),
    "{% if %}",
    "{{ " + "(" * 5000,
]


@pytest.mark.parametrize("template", HOSTILE, ids=lambda template: template[:40])
def test_what_could_run_long_or_render_much_is_not_plain(template):
    assert not is_plain(template)


def test_a_little_growth_is_plain():
    assert is_plain("{% set x = 'a' %}" + "{% set x = x ~ x %}" * 12)
