"""The conformance kit: learn in seconds whether a plug-in is right.

Subclass one of the six classes in a test file of your own, override its fixture, and run pytest::

    class TestMyPruner(PrunerConformance):
        @pytest.fixture(scope="class")
        @classmethod
        def pruner(cls):
            return MyPruner(MyPrunerSpec())

Needs pytest, which ``twigkit[test]`` brings.
"""

from __future__ import annotations

from twigkit.testing.adapter import AdapterConformance
from twigkit.testing.capabilities import CAPABILITIES, REQUIRED, check_capabilities
from twigkit.testing.capture import CaptureError, CaptureRecorder, record
from twigkit.testing.drafter import DrafterConformance
from twigkit.testing.head import HeadConformance
from twigkit.testing.lab import Lab, plainest_adapter
from twigkit.testing.objective import ObjectiveConformance
from twigkit.testing.pruner import PrunerConformance
from twigkit.testing.reference import masked_logits
from twigkit.testing.scripted import AGREEMENTS, Script, ScriptedDrafter, ScriptedHead
from twigkit.testing.shapes import ScoredPruner, ShapedDrafter
from twigkit.testing.task import TaskConformance

__all__ = [
    "AGREEMENTS",
    "CAPABILITIES",
    "REQUIRED",
    "AdapterConformance",
    "CaptureError",
    "CaptureRecorder",
    "DrafterConformance",
    "HeadConformance",
    "Lab",
    "ObjectiveConformance",
    "PrunerConformance",
    "ScoredPruner",
    "Script",
    "ScriptedDrafter",
    "ScriptedHead",
    "ShapedDrafter",
    "TaskConformance",
    "check_capabilities",
    "masked_logits",
    "plainest_adapter",
    "record",
]
