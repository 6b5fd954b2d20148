"""The model card of a twig, made from what its manifest says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, StrictUndefined
from pydantic import Field

from twigkit.specs.base import Spec
from twigkit.specs.run import TwigSpec

__all__ = ["Result", "write_card"]


class Result(Spec):
    """What was measured of a twig at one budget."""

    budget: int | float | None = Field(
        None, description="Average visual tokens per layer, a count or a fraction; None: all.", gt=0
    )
    relative_accuracy: float | None = Field(
        None,
        description="RelAcc: score with pruning over the score without, in percent.",
        ge=0,
    )
    relative_speed: float | None = Field(
        None, description="RelSpd: tokens per second over plain decoding's, in percent.", ge=0
    )
    drafter: str | None = Field(None, description="What drafted.")
    data: str | None = Field(None, description="On which samples.")
    device: str | None = Field(None, description="On what it ran.")


_BODY = """\
# A twig for {{ base }}

{{ spec.depth }} decoder layers on the output of base layer {{ spec.exit_layer }}, \
{{ "{:,}".format(parameters) }} parameters, heads: {{ heads | join(", ") }}.
{% if note %}
{{ note }}
{% endif %}
{%- if results %}
## Results

| budget | RelAcc | RelSpd | drafter | data | device |
|---|---|---|---|---|---|
{% for r in results -%}
| {{ "all" if r.budget is none else r.budget }} \
| {{ percent(r.relative_accuracy) }} | {{ percent(r.relative_speed) }} \
| {{ r.drafter or "" }} | {{ r.data or "" }} | {{ r.device or "" }} |
{% endfor %}
RelAcc is the score with pruning over the score without, RelSpd the speed over plain decoding's.
{% endif %}
## Use

```python
from twigkit import TwigModel

model = TwigModel.from_pretrained({{ quoted }}, twig="path/to/this/folder")
```

On the Hub its id alone is enough: `TwigModel.from_pretrained("org/name")` finds the base. From
transformers: `base.generate(..., custom_generate=ID, trust_remote_code=True, twig=ID)`.

## Where it comes from

{% for name, value in versions %}- {{ name }}: {{ value }}
{% endfor %}
{%- if training %}- trained: {{ training.steps }} steps on {{ training.device }}, \
{{ training.processes }} process{{ "" if training.processes == 1 else "es" }}
{% endif %}"""

_VERSIONS = ("twigkit", "torch", "transformers", "python")


def write_card(
    spec: TwigSpec,
    parameters: int,
    provenance: Mapping[str, Any],
    *,
    note: str = "",
    results: Sequence[Result] = (),
    licence: str | None = None,
) -> str:
    """Write the model card.

    Args:
        spec: What the twig is.
        parameters: Numbers in its weights.
        provenance: Where it comes from, as its manifest says.
        note: A line of its maker's.
        results: What was measured.
        licence: Identifier as the Hub knows it, such as ``"apache-2.0"``.

    Returns:
        ``README.md``: metadata that the Hub reads, and text.
    """
    data = ModelCardData(
        library_name="twigkit", tags=["twigkit"], base_model=spec.base, license=licence
    )
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(_BODY)
    body = template.render(
        base=" ".join(spec.base.split()),
        quoted=_quoted(spec.base),
        spec=spec,
        parameters=parameters,
        heads=list(spec.heads),
        note=note,
        results=results,
        percent=lambda value: "" if value is None else f"{value:.1f}%",
        versions=[(name, provenance[name]) for name in _VERSIONS if provenance.get(name)],
        training=provenance.get("training"),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _quoted(text: str) -> str:
    """A text as Python writes it, in double quotes."""
    return json.dumps(text)
