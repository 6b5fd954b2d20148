"""The least class of each kind that may be registered, as source text: ``Least``."""

LEAST = {
    "adapter": """
from twigkit.interfaces import Adapter
class Least(Adapter):
    def stack(self, model): ...
""",
    "head": """
from twigkit.interfaces import Head
class Least(Head):
    @classmethod
    def grow(cls, spec, stack): ...
    def forward(self, hidden): ...
""",
    "pruner": """
class Least:
    capabilities, heads, needs_twig = frozenset(), (), False
    def __init__(self, spec): ...
    def stages(self, layout): ...
    def select(self, stage, context): ...
""",
    "drafter": """
from twigkit.interfaces import PathShape
class Least(PathShape):
    capabilities, heads = frozenset(), ()
    def __init__(self, spec): ...
    def draft(self, draft_model, candidates, room): ...
""",
    "objective": """
from twigkit.interfaces import Objective
class Least(Objective):
    def forward(self, batch, progress, seed): ...
""",
    "task": """
from twigkit.interfaces import Task
class Least(Task):
    def examples(self): ...
    def outcomes(self, responses, judge): ...
""",
}
