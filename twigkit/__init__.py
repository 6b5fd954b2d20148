"""twigkit grows twigs on vision-language models, to make them answer faster.

The names below load on first use, so that ``import twigkit`` costs nothing that is not needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "custom_generate": "CustomGenerate",
    "errors": "BudgetError CapabilityError CheckpointError FamilyWarning InputError PluginError "
    "PluginWarning RegistryError SpecError TrainingError TwigkitError",
    "interfaces.adapter": "Adapter HasTiny LayerStack LogitScaling Prompt RefusingAdapter Rope "
    "TowerCall TowerRows VisionTower received_attention",
    "interfaces.budget": "WIPE_FRACTION keep_counts leaves_all wipe_layer",
    "interfaces.capabilities": "ADAPTER_CAPABILITIES PICTURES VIDEOS",
    "interfaces.drafter": "BeginsAnswers Candidates Decides DraftModel DraftTree Drafter "
    "LevelDrafting NgramTable PathShape RankPath Remembers Sampling TextDrafting Topology "
    "add_paths ordered_paths process_logits propose_ngrams static_tree",
    "interfaces.head": "CutsVocabulary DraftVocabulary Head RowProbe Scorer Twig apply_linear "
    "cut_rows",
    "interfaces.learning": "NEVER_DRAWN Answers Divergence TeacherRows ahead_sums "
    "answer_rewards attention_divergence base_precision draw_log_probability "
    "draw_without_replacement embed_batch find_answers head_name_for in_chunks pick_rows "
    "query_rows real_first real_last run_base run_twig teacher_layer teacher_rows text_starts "
    "token_sums turns_with_visuals verifications",
    "interfaces.objective": "IGNORED Batch BatchSize CountOrFraction Loss LossTerm Objective "
    "ObjectiveSpec Turn Workload",
    "interfaces.presets": "Preset VisualTokens",
    "interfaces.pruner": "PromptLayout PruneContext Pruner Selection Stage VisionView "
    "WipingPrunerSpec",
    "interfaces.pruning_schedules": "FirstLayerPruner cut_and_wipe several_cuts twig_stages",
    "interfaces.pruning_scores": "cosine_similarity question_places ranked_scores",
    "interfaces.scoring": "consensus_accuracy infer_option normalise_answer relaxed_match "
    "said_yes_or_no vqa_accuracy",
    "interfaces.task": "Example Judge Outcome Picture Response Task Totals find_file read_rows",
    "interfaces.tiny_models": "BOS EOS Finish Medium PAD STD TinyFamily TinyPrompts TinyRow "
    "join_media pad_left random_choice random_pixels spread_weights tiny_text_config "
    "tiny_vision_config",
    "model": "TwigModel",
    "plugins.discovery": "default_registry",
    "plugins.hookspecs": "HOOKS_VERSION Register hookimpl",
    "plugins.registry": "Entry Registry",
    "specs.base": "Spec problem",
    "specs.run": "ByKind DrafterField DrafterSpec GenerationSpec HeadSpec PluginSpec PrunerSpec "
    "TwigSpec",
    "specs.runtime": "RunSpec RuntimeSpec",
    "specs.task": "TaskSpec",
    "speculative.token_tree": "TokenTree",
    "training.spec": "TrainingSpec",
    "training.trainer": "train",
}
"""What is re-exported, by module; those of the interfaces for extensions are all here."""

_EXPORTS = {name: module for module, names in _MODULES.items() for name in names.split()}

if TYPE_CHECKING:
    from twigkit.custom_generate import CustomGenerate as CustomGenerate
    from twigkit.interfaces import *
    from twigkit.model import TwigModel as TwigModel
    from twigkit.specs.run import GenerationSpec as GenerationSpec
    from twigkit.specs.run import TwigSpec as TwigSpec
    from twigkit.specs.runtime import RunSpec as RunSpec
    from twigkit.specs.runtime import RuntimeSpec as RuntimeSpec
    from twigkit.speculative.token_tree import TokenTree as TokenTree
    from twigkit.training.spec import TrainingSpec as TrainingSpec
    from twigkit.training.trainer import train as train

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Import the module that holds a re-exported name."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'twigkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"twigkit.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the re-exported names with those already loaded."""
    return sorted({*globals(), *__all__})
