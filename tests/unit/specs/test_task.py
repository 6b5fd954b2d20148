"""A task is named in a spec as every plug-in is."""

import pytest
from pydantic import TypeAdapter, ValidationError

from twigkit.specs.task import TaskField, TaskSpec


def test_a_task_is_a_name_a_mapping_or_a_spec():
    field = TypeAdapter(TaskField)
    named = field.validate_python("demo")
    assert isinstance(named, TaskSpec)
    assert field.validate_python({"kind": "demo"}) == named == field.validate_python(named)
    with pytest.raises(ValidationError, match="unknown task 'dmo'"):
        field.validate_python("dmo")
