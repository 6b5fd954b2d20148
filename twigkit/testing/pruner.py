"""Conformance of pruners: is the budget met exactly, and do the right tokens stay?"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from twigkit.errors import BudgetError, FamilyWarning
from twigkit.generation.captured_prefill import CapturedPrefill, capturable
from twigkit.generation.prefill import Storage, prefill
from twigkit.generation.request import GenerationRequest
from twigkit.generation.sequences import StopConditions
from twigkit.generation.start import plan_stages
from twigkit.interfaces.budget import wipe_layer
from twigkit.interfaces.pruner import PromptLayout, Stage
from twigkit.plugins.contracts import check_class
from twigkit.testing import checks
from twigkit.testing.capabilities import REQUIRED, check_capabilities, need
from twigkit.testing.capture import CaptureError, CaptureRecorder
from twigkit.testing.disk_watch import leaving_files_alone
from twigkit.testing.lab import Lab, PictureLast, Trace, plainest_adapter, variants
from twigkit.testing.shapes import ShapedDrafter
from twigkit.twig.module import Twig

LAYOUTS = [(576, 32, 2), (2880, 32, 2), (2048, 32, 2), (100, 24, 0), (37, 12, 1), (16, 9, 3)]
"""Visual tokens, layers and exit layer of the prompts that budgets are worked out for."""

BUDGETS: tuple[int | float, ...] = (0.05, 0.111, 0.25, 1 / 3, 0.5, 0.7, 7, 11, 64, 128, 192, 640)
"""Budgets that are asked for; where one is impossible, a pruner says so."""


class PrunerConformance:
    """Subclass it, override the fixture ``pruner``, and run pytest.

    Attributes:
        extra: Capabilities of the author's own, each with what it promises.
        required: What the pruner must be able to do.
    """

    extra: dict[str, str] = {}  # noqa: RUF012 - a table that subclasses replace
    required: frozenset[str] = REQUIRED["pruner"]

    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls) -> Any:
        """The pruner under test; override this."""
        pytest.fail("override the fixture `pruner` to return an instance of your pruner")

    @pytest.fixture(scope="class")
    @classmethod
    def budget(cls) -> int | float:
        """The budget for whole runs, which the tiny model's depth must be able to meet."""
        return 0.5

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, pruner: Any) -> Lab:
        """A tiny base, of the plainest family of twigkit that shows what the pruner looks at."""
        adapter = plainest_adapter({"vision"} & pruner.capabilities)
        return Lab(adapter, next(iter(variants(adapter).values()))(), exit_layer=1)

    @pytest.fixture(scope="class")
    @classmethod
    def twig(cls, pruner: Any, lab: Lab) -> Twig:
        """An untrained twig with the heads that the pruner needs."""
        return lab.twig("untrained", ("lm", *(name for name in pruner.heads if name != "lm")))

    @pytest.fixture(scope="class")
    @classmethod
    def trace(cls, pruner: Any, lab: Lab, twig: Twig, budget: int | float) -> Trace:
        """A whole run over a batch."""
        return lab.run(lab.batch(), pruner=pruner, twig=twig, budget=budget)

    # -- the plan ----------------------------------------------------------------------------------

    def test_has_what_its_contract_lists(self, pruner: Any) -> None:
        """The class has all that registration asks for, or the error says what it lacks."""
        check_class("pruner", type(pruner).__name__, type(pruner))

    def test_declares_known_capabilities(self, pruner: Any) -> None:
        """Every capability is a known one, and the required ones are declared."""
        name = type(pruner).__name__
        declared = pruner.capabilities
        check_capabilities("pruner", name, declared, required=self.required, extra=self.extra)

    @pytest.mark.parametrize(("count", "depth", "exit_layer"), LAYOUTS)
    def test_meets_the_budget_exactly(
        self, pruner: Any, count: int, depth: int, exit_layer: int
    ) -> None:
        """One token less at every stage would miss the budget; none is missing as it is."""
        if "no-budget" in pruner.capabilities:
            pytest.skip("declares 'no-budget'")
        met = 0
        for budget in BUDGETS:
            asked = PromptLayout([count], depth, exit_layer, budget, None, strict=True)
            try:
                stages = pruner.stages(asked)
            except BudgetError:
                continue
            met += 1
            self._check_plan(stages, [count], depth)
            wanted = budget * count if isinstance(budget, float) else float(budget)
            spans = _spans(stages, depth)
            got = sum(layers * _visible(stages, layer, count) for layer, layers in spans) / depth
            slack = sum(
                layers for layer, layers in spans if 0 < _visible(stages, layer, count) < count
            )
            most = wanted + slack / depth
            if not wanted - 1e-6 <= got < most + 1e-6 * (not slack) - 1e-9 * bool(slack):
                pytest.fail(
                    f"budget {budget} of {count} visual tokens in {depth} layers means an average "
                    f"of {wanted:g} per layer; the stages {_told(stages)} give {got:g}, expected "
                    f"from {wanted:g} up to but not including {most:g}. Round the keep count up, "
                    "once (twigkit.interfaces.budget.keep_counts does)"
                )
        if not met:
            pytest.fail(f"met none of the budgets {BUDGETS} for {count} tokens in {depth} layers")

    @pytest.mark.parametrize("budget", [10_000, 577])
    def test_refuses_a_budget_above_what_there_is(self, pruner: Any, budget: int) -> None:
        """More tokens than the prompt has is an error that says so, if the layout is strict."""
        if "no-budget" in pruner.capabilities:
            pytest.skip("declares 'no-budget'")
        try:
            stages = pruner.stages(PromptLayout([576], 32, 2, budget, None, strict=True))
        except BudgetError as error:
            if str(budget) not in str(error):
                pytest.fail(f"the error does not name the budget {budget}: {error}")
            return
        pytest.fail(f"a budget of {budget} of 576 tokens gave {_told(stages)}; raise a BudgetError")

    @pytest.mark.parametrize("budget", [0.3, 64])
    def test_plans_every_row_of_a_batch(self, pruner: Any, budget: int | float) -> None:
        """Each row has its own keep count, the same as alone; a row without visual tokens has 0."""
        need("pruner", "batch", pruner.capabilities, self.required)
        visual = [576, 0, 96, 288, 30, 2880]
        try:
            stages = pruner.stages(PromptLayout(visual, 32, 2, budget, None))
        except BudgetError as error:
            pytest.fail(
                f"a budget of {budget} was refused ({error}); where the layout is not strict, meet "
                "it as nearly as each row allows (twigkit.interfaces.budget.keep_counts does)"
            )
        self._check_plan(stages, visual, 32)
        for row, count in enumerate(visual):
            if not count:
                continue
            alone = pruner.stages(PromptLayout([count], 32, 2, budget, None))
            got, want = [s.keep[row] for s in stages], [s.keep[0] for s in alone]
            if got != want:
                pytest.fail(f"row {row} keeps {got} in a batch and {want} alone")

    @pytest.mark.parametrize("asked", [20, 0.5])
    def test_wipes_where_it_is_asked_to(self, pruner: Any, asked: int | float) -> None:
        """A wipe layer that the user names is where the last visual tokens go."""
        need("pruner", "final-wipe", pruner.capabilities, self.required)
        wanted = wipe_layer(32, asked)
        stages = pruner.stages(PromptLayout([576], 32, 2, 64, asked))
        wiping = [stage.layer for stage in stages if not any(stage.keep)]
        if wiping[:1] != [wanted]:
            pytest.fail(
                f"with the wipe layer {asked} of 32 layers the stages are {_told(stages)}; "
                f"expected that none stay after layer {wanted}. Take layout.wipe_layer "
                "where it is not None (twigkit.interfaces.budget.wipe_layer resolves it)"
            )

    # -- the choice --------------------------------------------------------------------------------

    def test_scores_have_the_right_shape(self, pruner: Any, trace: Trace) -> None:
        """One finite score per token that is there; states only from pruners that merge."""
        for stage, context, selection in self._asked(trace):
            scores = selection.scores
            if scores.shape != context.visual.shape:
                pytest.fail(
                    f"select() gave scores {list(scores.shape)} at the stage after layer "
                    f"{stage.layer}; expected one per token there, {list(context.visual.shape)}, "
                    "text included"
                )
            if not bool(scores[context.visual].float().isfinite().all()):
                pytest.fail(f"a score at the stage after layer {stage.layer} is not finite")
            if selection.hidden is not None and "merge" not in pruner.capabilities:
                pytest.fail(
                    f"select() replaces states at the stage after layer {stage.layer}; declare "
                    "the capability 'merge', or return scores alone"
                )

    def test_keeps_the_best_in_prompt_order(self, trace: Trace) -> None:
        """What stays is all text and the highest-scoring visual tokens, in prompt order."""
        checks.kept_as_scored(trace)
        checks.cache_holds_kept(trace)

    def test_writes_into_nothing(self, trace: Trace) -> None:
        """``select`` leaves what it is handed as it was, and the prompt is computed once."""
        checks.audited(trace)
        if trace.pruner is not None and "look-ahead" not in trace.pruner.capabilities:
            checks.computed_once(trace, 0)

    def test_leaves_files_alone(
        self, pruner: Any, lab: Lab, twig: Twig, budget: int | float
    ) -> None:
        """Nothing is written, moved or removed while it works, and no program is started."""
        with leaving_files_alone(type(pruner).__name__):
            lab.run([lab.visual_row()], pruner=pruner, twig=twig, budget=budget, new_tokens=1)

    def test_chooses_the_same_twice(
        self, pruner: Any, lab: Lab, twig: Twig, trace: Trace, budget: int | float
    ) -> None:
        """The same prompt and the same generator give the same tokens."""
        again = lab.run(lab.batch(), pruner=pruner, twig=twig, budget=budget, new_tokens=1)
        for number in range(len(trace.prefilled.kept)):
            for row in range(len(trace.rows)):
                if again.kept(row, number) != trace.kept(row, number):
                    pytest.fail(
                        f"row {row} kept other tokens the second time; draw from context.generator"
                    )

    def test_chooses_the_same_alone_and_in_a_batch(
        self, pruner: Any, lab: Lab, twig: Twig, trace: Trace, budget: int | float
    ) -> None:
        """Neither padding nor the neighbours have a say."""
        need("pruner", "batch", pruner.capabilities, self.required)
        if "random" in pruner.capabilities:
            pytest.skip("declares 'random'")
        for row, asked in enumerate(trace.rows):
            alone = lab.run([asked], pruner=pruner, twig=twig, budget=budget, new_tokens=1)
            for number in range(len(alone.prefilled.kept)):
                got, want = trace.kept(row, number), alone.kept(0, number)
                if got != want:
                    pytest.fail(
                        f"row {row} keeps {got} in a batch and {want} alone; mask padding "
                        "(context.valid) and score each row by itself"
                    )

    @torch.inference_mode()
    def test_its_prefill_can_be_captured(
        self, pruner: Any, lab: Lab, twig: Twig, budget: int | float
    ) -> None:
        """A replay of one prompt's prefill keeps of another prompt what prefill keeps of it."""
        need("pruner", "capturable", pruner.capabilities, self.required)
        captured = CapturedPrefill(CaptureRecorder)
        request = GenerationRequest(StopConditions(1, frozenset()), pruner=pruner, budget=budget)
        found: list[list[Tensor]] = []
        for seed in (1, 2, 3):
            asked = replace(request, inputs=lab.inputs([lab.visual_row(seed=seed)]))
            prompt = asked.embed(lab.stack)
            stages = plan_stages(lab.stack, prompt, asked, twig)
            if not capturable(lab.stack, prompt, pruner, stages):
                pytest.skip("captured with other settings only")
            found = []
            for fill in (captured.fill, prefill):
                try:
                    with warnings.catch_warnings():
                        warnings.filterwarnings(
                            "error", "prefill .* where fillers follow", FamilyWarning
                        )
                        filled = fill(
                            lab.stack,
                            prompt,
                            Storage(0, drafts=False),
                            twig=twig,
                            pruner=pruner,
                            stages=stages,
                        )
                except (CaptureError, FamilyWarning) as error:
                    pytest.fail(f"prefill with {type(pruner).__name__} cannot be captured: {error}")
                found.append([kept.positions for kept in filled.kept])
        if not captured.replays or not all(map(torch.equal, *found)):
            pytest.fail(
                f"a replay keeps {found[0]} and prefill {found[1]}; compute scores from the "
                "context's tensors alone, or leave out the capability 'capturable'"
            )

    def test_the_last_prompt_token_stays(
        self, pruner: Any, lab: Lab, twig: Twig, budget: int | float
    ) -> None:
        """A prompt that ends with its picture keeps its last token through every stage."""
        row = lab.visual_row()
        asked = PictureLast(row.media, row.words, row.seed)
        trace = lab.run([asked], pruner=pruner, twig=twig, budget=budget, new_tokens=2)
        last = trace.prompt.lengths[0] - 1
        for number, kept in enumerate(trace.prefilled.kept):
            if last not in trace.kept(0, number):
                pytest.fail(
                    f"the stage after layer {kept.stage.layer} dropped the last prompt token, from "
                    "which the answer goes on; twigkit keeps it whatever the scores"
                )

    # -- the effect --------------------------------------------------------------------------------

    def test_equals_a_masked_full_length_run(self, pruner: Any, lab: Lab, trace: Trace) -> None:
        """The answer is the own model's, were the dropped tokens invisible to it."""
        if "merge" in pruner.capabilities:
            pytest.skip("declares 'merge': kept tokens are changed on purpose")
        for number, row in enumerate(trace.rows):
            seen = trace.seen_by_layer(number, lab.stack.depth)
            tokens, length = trace.tokens[number], trace.prompt.lengths[number]
            logits = lab.own_logits(row, tokens[:-1], seen)[length - 1 :]
            want = [*trace.tokens[:number], logits.argmax(-1).tolist(), *trace.tokens[number + 1 :]]
            hint = "Return scores (and states) of the tokens as they lie in the context"
            checks.same_tokens(lab, trace, want, "the answer after the pruned prompt", hint)

    @pytest.mark.parametrize("draft_cache", ["full", "kept"])
    def test_speculation_equals_plain_decoding_under_it(
        self, pruner: Any, lab: Lab, twig: Twig, trace: Trace, budget: int | float, draft_cache: str
    ) -> None:
        """Drafting after the pruned prompt changes no token."""
        drafted = lab.run(
            lab.batch(),
            ShapedDrafter((0, 0, 1, 1)),
            pruner=pruner,
            twig=twig,
            budget=budget,
            draft_cache=draft_cache,
        )
        checks.audited(drafted)
        hint = "select() must depend on the prompt alone"
        checks.same_tokens(lab, drafted, trace.tokens, "drafting after the pruned prompt", hint)

    # -- steps that the checks share ---------------------------------------------------------------

    @staticmethod
    def _asked(trace: Trace) -> list[tuple[Stage, Any, Any]]:
        """What the pruner was asked and said."""
        if trace.pruner is not None and "no-stages" in trace.pruner.capabilities:
            pytest.skip("declares 'no-stages'")
        if trace.pruner is None or not trace.prefilled.kept:
            pytest.fail("stages() planned no stage for a prompt with visual tokens")
        return trace.pruner.seen

    @staticmethod
    def _check_plan(stages: list[Stage], visual: list[int], depth: int) -> None:
        """Fail if stages are out of order, or keep more than there is."""
        layers = [stage.layer for stage in stages]
        if layers != sorted(set(layers)) or not all(0 <= layer <= depth for layer in layers):
            pytest.fail(f"stages lie after the layers {layers}; expected rising ones up to {depth}")
        left = visual
        for stage in stages:
            if len(stage.keep) != len(visual):
                pytest.fail(f"a stage keeps {stage.keep} for {len(visual)} rows")
            for row, (count, before) in enumerate(zip(stage.keep, left, strict=True)):
                if not 0 <= count <= before:
                    pytest.fail(
                        f"the stage after layer {stage.layer} keeps {count} of row {row}, where "
                        f"{before} are left"
                    )
            left = stage.keep


def _spans(stages: list[Stage], depth: int) -> list[tuple[int, int]]:
    """Where each range of layers with one number of tokens starts, and how long it is."""
    bounds = sorted({0, depth, *(stage.layer for stage in stages)})
    return [(first, last - first) for first, last in pairwise(bounds)]


def _visible(stages: list[Stage], layer: int, count: int) -> int:
    """Visual tokens of the first row that a layer sees."""
    return min([count, *(stage.keep[0] for stage in stages if stage.layer <= layer)])


def _told(stages: list[Stage]) -> str:
    """Put stages into words."""
    return ", ".join(f"{stage.keep} after layer {stage.layer}" for stage in stages) or "none"


__all__ = ["BUDGETS", "LAYOUTS", "PrunerConformance"]
