"""Whatever a spec file holds, it is a spec or refused on one line per problem."""

import os

import pytest

from twigkit import RunSpec, SpecError
from twigkit.specs.base import read_yaml

TOO_MUCH = {
    "nested.yaml": "[" * 5000,
    "mappings.yaml": "{a: " * 3000,
    "nested.json": "[" * 100_000,
    "number.json": '{"twig": {"base": "b", "exit_layer": ' + "9" * 5000 + "}}",
    "number.yaml": "twig: {base: b, exit_layer: " + "9" * 5000 + "}",
    "code.yaml": "!!python/object/apply:os.system ['true']",
    "loop.yaml": "twig: &a {base: *a}",
    "two.yaml": "twig: {base: b}\n---\ntwig: {base: c}",
    "equals.yaml": "=: 1",
    "bytes.yaml": "twig: !!binary aGk=",
    "merge.yaml": "twig:\n  <<: 3",
    "zero.yaml": "twig: {base: 'a\x00b'}",
    "text.yaml": "just text",
    "hexadecimal.yaml": "twig: {base: b, depth: 0x" + "f" * 6000 + "}",
    "empty-int.yaml": 'twig: {base: b, depth: !!int ""}',
    "float.yaml": 'twig: {base: b, depth: !!float "x"}',
    "date.yaml": "twig: {base: b, depth: 2020-99-99}",
    "bool.yaml": "twig: {base: b, depth: !!bool x}",
    "time.yaml": "twig: {base: b, depth: !!timestamp x}",
    "kind.yaml": "twig: {base: b, heads: {lm: {kind: [a]}}}",
    "aliases.yaml": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(8))
    + "twig: *a8\n",
    "long.yaml": "twig: {base: " + "b" * 2**20 + "}",
    "long.json": '{"twig": {"base": "' + "b" * 2**20 + '"}}',
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_no_spec_can_be_made_of_is_refused_on_one_line(name, tmp_path):
    path = tmp_path / name
    path.write_text(TOO_MUCH[name])
    with pytest.raises(SpecError, match=name) as refused:
        RunSpec.from_file(path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["a\0.yaml", "nothing.yaml", "folder.yaml", "x" * 300 + ".yaml"])
def test_what_is_no_file_is_refused(name, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(SpecError, match="cannot be read"):
        RunSpec.from_file(tmp_path / name)


def test_merge_keys_of_yaml_are_understood():
    text = "twig: &usual {base: b, exit_layer: 3}\n"
    run = RunSpec.from_yaml("twig:\n  <<: {base: b, exit_layer: 3}\n  depth: 2\n")
    assert (run.twig.base, run.twig.exit_layer, run.twig.depth) == ("b", 3, 2)
    assert RunSpec.from_yaml(text).twig.exit_layer == 3
    with pytest.raises(SpecError, match="given twice"):
        RunSpec.from_yaml("twig: {<<: {base: b}, depth: 2, depth: 3}")


def test_what_should_be_a_mapping_is_told_with_its_fields():
    with pytest.raises(SpecError, match=r"RunSpec.twig: got 3; expected a mapping of base, rev"):
        RunSpec.from_yaml("twig: 3")


@pytest.mark.parametrize(
    "line",
    [
        "twig: {depth: 3.0}",
        "twig: {depth: '3'}",
        "twig: {exit_layer: true}",
        "generation: {do_sample: 'yes'}",
        "generation: {strict: 1}",
        "generation: {repetition_penalty: true}",
        "generation: {repetition_penalty: .inf}",
        "generation: {do_sample: true, temperature: .inf}",
        "generation: {do_sample: true, temperature: 1.0e-39}",
        "generation: {max_new_tokens: 7.0}",
    ],
)
def test_a_value_of_another_type_is_refused(line):
    plain = "twig: {base: b}\n" if line.startswith("generation") else ""
    with pytest.raises(SpecError, match=r": got .*; (expected|input should) "):
        RunSpec.from_yaml(plain + line.replace("twig: {", "twig: {base: b, "))


def test_whole_numbers_and_words_of_numbers_are_numbers():
    """YAML reads 1e-4, without a point, as a word."""
    run = RunSpec.from_yaml(
        "{twig: {base: b}, generation: {do_sample: true, temperature: 1e-4, top_p: 1}}"
    )
    assert (run.generation.temperature, run.generation.top_p) == (1e-4, 1.0)


@pytest.mark.parametrize("aliases", ["[*a, *a]", "{<<: *a}"])
def test_aliases_within_bounds_are_resolved(aliases):
    assert read_yaml(f"- &a {{b: 1}}\n- {aliases}\n")[1] in ([{"b": 1}] * 2, {"b": 1})


@pytest.mark.parametrize("special", ["pipe.yaml", "zero.yaml"])
def test_what_is_no_regular_file_is_refused_before_it_is_read(special, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(SpecError, match="no regular file"):
        RunSpec.from_file(tmp_path / special)
