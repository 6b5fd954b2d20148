"""The one door for extensions: contracts, what they are handed, and what helps to write them.

One module per kind of plug-in, and some that they share; all names can be imported from here.
"""

from twigkit.interfaces import (
    adapter,
    budget,
    capabilities,
    drafter,
    head,
    learning,
    objective,
    plugin,
    presets,
    pruner,
    pruning_schedules,
    pruning_scores,
    scoring,
    task,
    tiny_models,
)
from twigkit.interfaces.adapter import *
from twigkit.interfaces.budget import *
from twigkit.interfaces.capabilities import *
from twigkit.interfaces.drafter import *
from twigkit.interfaces.head import *
from twigkit.interfaces.learning import *
from twigkit.interfaces.objective import *
from twigkit.interfaces.plugin import *
from twigkit.interfaces.presets import *
from twigkit.interfaces.pruner import *
from twigkit.interfaces.pruning_schedules import *
from twigkit.interfaces.pruning_scores import *
from twigkit.interfaces.scoring import *
from twigkit.interfaces.task import *
from twigkit.interfaces.tiny_models import *

__all__ = sorted(
    {
        *adapter.__all__,
        *budget.__all__,
        *capabilities.__all__,
        *drafter.__all__,
        *head.__all__,
        *learning.__all__,
        *objective.__all__,
        *plugin.__all__,
        *presets.__all__,
        *pruner.__all__,
        *pruning_schedules.__all__,
        *pruning_scores.__all__,
        *scoring.__all__,
        *task.__all__,
        *tiny_models.__all__,
    }
)
