"""Building blocks of objectives: passes of base and twig, teachers, losses and rewards."""

from twigkit.backbone.packing import real_first, real_last
from twigkit.backbone.probes import RowProbe
from twigkit.backbone.prompt import Prompt
from twigkit.learning.acceptance_estimate import verifications
from twigkit.learning.answer_tokens import Answers, find_answers
from twigkit.learning.attention_targets import (
    TeacherRows,
    teacher_layer,
    teacher_rows,
    text_starts,
)
from twigkit.learning.forward import (
    base_precision,
    embed_batch,
    pick_rows,
    query_rows,
    run_base,
    run_twig,
    turns_with_visuals,
)
from twigkit.learning.head_lookup import head_name_for
from twigkit.learning.losses import (
    Divergence,
    ahead_sums,
    attention_divergence,
    in_chunks,
    token_sums,
)
from twigkit.learning.plackett_luce import (
    NEVER_DRAWN,
    draw_log_probability,
    draw_without_replacement,
)
from twigkit.learning.rewards import answer_rewards

__all__ = [
    "NEVER_DRAWN",
    "Answers",
    "Divergence",
    "Prompt",
    "RowProbe",
    "TeacherRows",
    "ahead_sums",
    "answer_rewards",
    "attention_divergence",
    "base_precision",
    "draw_log_probability",
    "draw_without_replacement",
    "embed_batch",
    "find_answers",
    "head_name_for",
    "in_chunks",
    "pick_rows",
    "query_rows",
    "real_first",
    "real_last",
    "run_base",
    "run_twig",
    "teacher_layer",
    "teacher_rows",
    "text_starts",
    "token_sums",
    "turns_with_visuals",
    "verifications",
]
