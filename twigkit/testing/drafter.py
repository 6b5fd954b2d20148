"""Conformance of drafters: sound tables, no wasted work, and never another token than plain."""

from __future__ import annotations

from typing import Any

import pytest

from twigkit.generation.step_parts import capturable
from twigkit.plugins.contracts import check_class
from twigkit.testing import checks
from twigkit.testing.capabilities import REQUIRED, check_capabilities, need
from twigkit.testing.capture import CaptureError
from twigkit.testing.chance import DRAWN, check_distribution
from twigkit.testing.disk_watch import leaving_files_alone
from twigkit.testing.lab import Lab, Trace, captured_tokens, plainest_adapter, variants
from twigkit.testing.scripted import AGREEMENTS, Agreement, Script, ScriptedDrafter
from twigkit.testing.shapes import ScoredPruner
from twigkit.twig.module import Twig

RUNS = (*AGREEMENTS, "untrained")
"""Drafts that are always right, right half the time, never right, and random."""


class DrafterConformance:
    """Subclass it, override the fixture ``drafter``, and run pytest.

    The drafts are scripted: a twig that copies all remaining layers of a tiny base is right about
    every token, and a head on top of it makes it wrong always or half of the time.

    Attributes:
        extra: Capabilities of the author's own, each with what it promises.
        required: What the drafter must be able to do.
    """

    extra: dict[str, str] = {}  # noqa: RUF012 - a table that subclasses replace
    required: frozenset[str] = REQUIRED["drafter"]

    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls) -> Any:
        """The drafter under test; override this."""
        pytest.fail("override the fixture `drafter` to return an instance of your drafter")

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls) -> Lab:
        """A tiny base, the plainest that twigkit serves."""
        adapter = plainest_adapter()
        return Lab(adapter, next(iter(variants(adapter).values()))())

    @pytest.fixture(scope="class", params=RUNS)
    @classmethod
    def agreement(cls, request: pytest.FixtureRequest) -> str:
        """How often the drafts are right."""
        return str(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def twig(cls, drafter: Any, lab: Lab, agreement: str) -> Twig | None:
        """A twig with the heads that the drafter needs; ``None`` if it needs none."""
        return lab.twig(agreement, tuple(drafter.heads)) if drafter.heads else None

    @pytest.fixture(scope="class")
    @classmethod
    def trace(cls, drafter: Any, lab: Lab, twig: Twig | None) -> Trace:
        """A whole run over one prompt."""
        return lab.run([lab.visual_row()], drafter, twig=twig, new_tokens=16)

    # -- what is declared --------------------------------------------------------------------------

    def test_has_what_its_contract_lists(self, drafter: Any) -> None:
        """The class has all that registration asks for, or the error says what it lacks."""
        check_class("drafter", type(drafter).__name__, type(drafter))

    def test_declares_what_it_is(self, drafter: Any) -> None:
        """Capabilities are known ones, and sizes belong together."""
        name = type(drafter).__name__
        declared = drafter.capabilities
        check_capabilities("drafter", name, declared, required=self.required, extra=self.extra)
        if bool(drafter.heads) == ("no-twig" in declared):
            pytest.fail(f"{name} needs the heads {drafter.heads} and declares {sorted(declared)}")
        decides = hasattr(drafter, "decide")  # what it chose last says nothing of what it can
        if not decides and drafter.linear == ("tree" in declared):
            pytest.fail(f"{name} says linear = {drafter.linear} and declares {sorted(declared)}")
        if not 0 < drafter.size <= drafter.capacity:
            pytest.fail(f"size {drafter.size} lies outside of 1 .. capacity {drafter.capacity}")
        if not 0 <= drafter.height < drafter.size:
            pytest.fail(f"height {drafter.height} does not fit a size of {drafter.size}")

    # -- the tables --------------------------------------------------------------------------------

    def test_hands_over_sound_tables(self, drafter: Any, trace: Trace, lab: Lab) -> None:
        """Depths, parents, ancestors and sizes of every step belong together."""
        linear = drafter.linear and not hasattr(drafter, "decide")
        for number, step in enumerate(trace.drafter.steps, 1):
            where = f"step {number}"
            table, drafted = step.table, step.candidates
            checks.sound_table(drafted, linear, where)
            checks.sound_table(table, linear, where)
            if table.size > drafter.size or drafted.size > drafter.capacity:
                pytest.fail(
                    f"{where}: {drafted.size} nodes drafted and {table.size} handed over; declared "
                    f"are a capacity of {drafter.capacity} and a size of {drafter.size}"
                )
            height = int(table.depth[:, : table.size][table.alive[:, : table.size]].amax())
            if height > drafter.height:
                pytest.fail(f"{where}: a path of {height} drafts; declared height {drafter.height}")
            tokens = table.tokens[:, : table.size]
            if int(tokens.min()) < 0 or int(tokens.max()) >= lab.stack.vocabulary:
                pytest.fail(f"{where}: a token lies outside of the vocabulary")
            self._check_source(step, where)

    def test_starts_from_the_last_accepted_token(self, trace: Trace) -> None:
        """The root of every table is the last token of the text."""
        done = 1
        for number, step in enumerate(trace.drafter.steps):
            root, last = int(step.table.tokens[0, 0]), trace.tokens[0][done - 1]
            if root != last:
                pytest.fail(f"step {number + 1}: the root is {root}, the last token was {last}")
            done += trace.gains[0][number]

    def test_passes_each_node_once(self, trace: Trace) -> None:
        """The draft model sees a node once and after its ancestors; no layer works twice."""
        checks.expanded_in_order(trace)
        checks.computed_once(trace, lab_exit(trace))

    # -- the result --------------------------------------------------------------------------------

    def test_equals_plain_decoding(self, trace: Trace, lab: Lab) -> None:
        """One prompt, token for token, and the caches hold what was accepted."""
        checks.audited(trace)
        checks.same_tokens(
            lab,
            trace,
            lab.own_tokens(trace.rows, 16),
            "drafting on one prompt",
            "Propose tokens only; a table that does not describe its own tree breaks verification",
        )

    def test_leaves_files_alone(self, drafter: Any, lab: Lab, twig: Twig | None) -> None:
        """Nothing is written, moved or removed while it works, and no program is started."""
        with leaving_files_alone(type(drafter).__name__):
            lab.run([lab.visual_row()], drafter, twig=twig, new_tokens=3)

    @pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
    def test_equals_plain_decoding_in_a_batch(
        self, drafter: Any, lab: Lab, twig: Twig | None, pruned: bool
    ) -> None:
        """Rows that accept different lengths keep their own tokens, pruned or not."""
        need("drafter", "batch", drafter.capabilities, self.required)
        pruner = ScoredPruner(5, lab.exit_layer, lab.stack.depth - 2) if pruned else None
        rows = lab.batch()
        plain = lab.run(rows, pruner=pruner)
        trace = lab.run(rows, drafter, twig=twig, pruner=pruner)
        checks.audited(trace)
        checks.same_tokens(lab, trace, plain.tokens, "drafting in a batch", "Rows must not mix")

    def test_equals_plain_decoding_in_fixed_shapes(
        self, drafter: Any, lab: Lab, twig: Twig | None
    ) -> None:
        """The shapes that a GPU runs in change nothing, though nobody may look at values then."""
        rows = lab.batch()[-1:]
        trace = lab.run(rows, drafter, twig=twig, bucketed=True)
        checks.audited(trace)
        hint = "When draft_model.fixed_shapes is true, propose equally many nodes in every step"
        checks.same_tokens(lab, trace, lab.own_tokens(rows), "drafting in fixed shapes", hint)
        if hasattr(drafter, "decide"):
            return  # whose drafters differ
        # A step's room may limit it, so the last ones tell nothing.
        left, sizes = len(trace.tokens[0]), set()
        for gain, step in zip(trace.gains[0], trace.drafter.steps, strict=False):
            if left > drafter.height + 1:
                sizes.add(step.table.size)
            left -= gain
        if len(sizes) > 1:
            pytest.fail(f"steps handed over {sorted(sizes)} nodes. {hint}")

    def test_its_steps_can_be_captured(self, drafter: Any, lab: Lab) -> None:
        """What drafts in levels, or from texts, leaves all else to what a CUDA graph can repeat.

        Shown on any device: nothing waits for it, nothing that a level allocates outlives it, and
        every step touches the same tensors.
        """
        if not capturable(drafter):
            pytest.skip("drafts neither in levels nor from texts, so its steps are not captured")
        twig = lab.twig("half", tuple(drafter.heads)) if drafter.heads else None
        row = lab.visual_row()
        try:
            found = captured_tokens(lab, [row], drafter, twig)
        except CaptureError as error:
            pytest.fail(
                f"a step of {type(drafter).__name__} cannot be captured: {error}. Leave in the "
                "candidates, and in what draft_level() returns, all that a later level needs"
            )
        if found != lab.own_tokens([row]):
            pytest.fail(f"captured steps gave {found}, the model itself {lab.own_tokens([row])}")

    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_never_overshoots(self, drafter: Any, lab: Lab, twig: Twig | None, most: int) -> None:
        """No row gets more tokens than were asked for, however much was accepted."""
        rows = [lab.visual_row()]
        trace = lab.run(rows, drafter, twig=twig, new_tokens=most)
        hint = "`room` is the most drafts that are worth proposing; 0 means none"
        checks.same_tokens(lab, trace, lab.own_tokens(rows, most), f"{most} new tokens", hint)

    def test_stops_where_plain_decoding_stops(
        self, drafter: Any, lab: Lab, twig: Twig | None
    ) -> None:
        """An end token in the middle of what was accepted ends the row there."""
        rows = lab.batch() if "batch" in drafter.capabilities else [lab.visual_row()]
        whole = [lab.own_tokens([row])[0] for row in rows]
        ends = frozenset({whole[0][4], whole[-1][6]})
        trace = lab.run(rows, drafter, twig=twig, ends=ends)
        want = [_until(tokens, ends) for tokens in whole]
        what = f"drafting with the end tokens {sorted(ends)}"
        checks.audited(trace)
        checks.same_tokens(lab, trace, want, what, "Rows that are done must not disturb the others")

    def test_gains_what_the_script_allows(self, drafter: Any, trace: Trace, agreement: str) -> None:
        """Right drafts are accepted, wrong ones are not: each script has its accepted lengths."""
        if agreement not in AGREEMENTS or "lm" not in drafter.heads or drafter.height == 0:
            pytest.skip("does not draft with a scripted head")
        gains = trace.gains[0][:-1]
        drafted = [step.table.size > 1 for step in trace.drafter.steps][: len(gains)]
        won = [gain for gain, tried in zip(gains, drafted, strict=True) if tried]
        told = f"gained {won} tokens per step"
        if agreement == "never" and set(won) - {1}:
            pytest.fail(f"drafts that are never right {told}; expected 1 each")
        if agreement == "always" and (not won or min(won) < 2):
            pytest.fail(
                f"drafts that are always right {told}; expected at least 2 each: is the most "
                "likely token proposed, below the node that it follows?"
            )
        if agreement == "half" and (not won or max(won) < 2):
            pytest.fail(f"drafts that are right half of the time {told}; expected some above 1")

    @pytest.mark.parametrize("share", AGREEMENTS)
    def test_equals_plain_decoding_whatever_is_accepted(
        self, drafter: Any, lab: Lab, share: Agreement
    ) -> None:
        """All, half or none of the drafts accepted, after a prompt that was pruned and wiped."""
        if not drafter.heads:
            pytest.skip("drafts without heads")
        twig = lab.twig("untrained", tuple(drafter.heads))
        pruner = ScoredPruner(5, lab.exit_layer, lab.stack.depth - 2)
        rows = lab.batch()
        plain = lab.run(rows, pruner=pruner)
        scripted = ScriptedDrafter(drafter, Script(plain.prompt, plain.tokens, share))
        trace = lab.run(rows, scripted, twig=twig, pruner=pruner)
        checks.audited(trace)
        what = f"drafting that is {share} right after a pruned prompt"
        checks.same_tokens(
            lab, trace, plain.tokens, what, "Accepted drafts must be kept as drafted"
        )
        gains = {gain for row in trace.gains for gain in row[:-1]}
        if share == "never" and gains - {1}:
            pytest.fail(f"{what}: gained {sorted(gains)} tokens in steps; expected 1 in each")
        if share != "never" and drafter.height and max(gains, default=0) < 2:
            pytest.fail(f"{what}: never gained more than a token in a step")

    # -- drawn answers -----------------------------------------------------------------------------

    def test_a_seed_gives_the_same_answer(self, drafter: Any, lab: Lab) -> None:
        """Plain decoding's where drafts are chosen; the same again, and alone, where drawn."""
        twig = lab.twig("half", tuple(drafter.heads)) if drafter.heads else None
        rows = lab.batch()
        seeds = range(7, 7 + len(rows))
        trace = lab.run(rows, drafter, twig=twig, selection=DRAWN, seeds=seeds)
        checks.audited(trace)
        if not any(step.table.sampled for step in trace.drafter.steps):
            plain = lab.run(rows, selection=DRAWN, seeds=seeds)
            if trace.tokens != plain.tokens:
                pytest.fail("drafts that were chosen changed what the seeds give in plain decoding")
            return
        if "sampling" not in drafter.capabilities:
            pytest.fail(
                f"{type(drafter).__name__} draws its drafts; declare the capability 'sampling'"
            )
        again = lab.run(rows, drafter, twig=twig, selection=DRAWN, seeds=seeds)
        alone = [
            lab.run([row], drafter, twig=twig, selection=DRAWN, seeds=[seed]).tokens[0]
            for row, seed in zip(rows, seeds, strict=True)
        ]
        for tokens, how in ((again.tokens, "the second time"), (alone, "alone")):
            if tokens != trace.tokens:
                pytest.fail(
                    f"the same seeds gave other answers {how}; draw with candidates.sample() only, "
                    "and let each row's drafts depend on that row alone"
                )

    def test_drawn_drafts_leave_the_targets_distribution(self, drafter: Any, lab: Lab) -> None:
        """Answers drawn with drafts that were drawn are the target's own, to within chance."""
        need("drafter", "sampling", drafter.capabilities, self.required)
        twig = lab.twig("always", tuple(drafter.heads)) if drafter.heads else None
        check_distribution(lab, drafter, twig)

    # -- steps that the checks share ---------------------------------------------------------------

    @staticmethod
    def _check_source(step: Any, where: str) -> None:
        """Fail if the source ids of a cut tree are not those of its nodes."""
        if step.table.source is None:
            return
        alive = step.table.alive
        tokens = step.candidates.tokens.gather(1, step.table.source)
        depths = step.candidates.depth.gather(1, step.table.source)
        same = (tokens == step.table.tokens) & (depths == step.table.depth)
        if not bool((same | ~alive).all()):
            pytest.fail(
                f"{where}: `source` of the nodes handed over names other nodes than they are; "
                "return what Candidates.cut() returned"
            )


def _until(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Cut off what stands after the first end token."""
    return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), None)]


def lab_exit(trace: Trace) -> int:
    """Layers that drafting runs; 0 if the drafter has no twig."""
    shallow = trace.prefilled.cache.shallow
    return max((segment.last for segment in shallow), default=0)
