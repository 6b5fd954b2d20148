"""Conformance of adapters: does the layer stack do what the family's own model does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from twigkit.backbone.masks import prompt_masks
from twigkit.errors import CapabilityError
from twigkit.interfaces.tiny_models import TinyFamily, TinyRow
from twigkit.plugins.contracts import check_class
from twigkit.testing import checks
from twigkit.testing.capabilities import REQUIRED, check_capabilities, need
from twigkit.testing.capture import CaptureError
from twigkit.testing.disk_watch import leaving_files_alone
from twigkit.testing.lab import MEDIA, Lab, Trace, captured_tokens, parameters_of, variants
from twigkit.testing.layer_stack import LayerStackChecks
from twigkit.testing.shapes import LevelDrafter, ScoredPruner, ShapedDrafter

if TYPE_CHECKING:
    from twigkit.speculative.token_tree import TokenTree

TREE = (0, 0, 1, 1, 2, 3, 5)
"""A tree whose order of ids is not its order of depths along any path."""

SHAPES = {"path": (0, 1, 2), "tree": TREE, "cut tree": (0, 0, 0, 1, 1, 2, 2, 4, 5)}
"""Shapes in which drafts are verified."""


class AdapterConformance(LayerStackChecks):
    """Subclass it, override the fixture ``adapter``, and run pytest.

    The adapter brings a tiny model of its family through ``tiny()`` or ``variants()``; a class that
    overrides the fixture ``family`` as well may bring any model. Weights are drawn with a standard
    deviation of 0.12, because the usual 0.02 hides wrong masks.

    Attributes:
        extra: Capabilities of the author's own, each with what it promises.
    """

    extra: dict[str, str] = {}  # noqa: RUF012 - a table that subclasses replace

    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls) -> Any:
        """The adapter under test; override this."""
        pytest.fail("override the fixture `adapter` to return an instance of your adapter")

    @pytest.fixture(scope="class")
    @classmethod
    def family(cls, adapter: Any) -> TinyFamily:
        """The tiny model, built by the adapter's first variant unless overridden."""
        makers = variants(adapter)
        if not makers:
            pytest.fail(
                f"{type(adapter).__name__} brings no tiny model; define `tiny()` to return a "
                "TinyFamily, or override the fixture `family`"
            )
        made: TinyFamily = next(iter(makers.values()))()
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def required(cls) -> frozenset[str]:
        """What the family must be able to do; declaring it absent fails and does not skip."""
        return REQUIRED["adapter"]

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, adapter: Any, family: TinyFamily) -> Lab:
        """The workbench: the tiny model with the adapter on it."""
        return Lab(adapter, family)

    # -- what is declared --------------------------------------------------------------------------

    def test_has_what_its_contract_lists(self, adapter: Any) -> None:
        """The class has all that registration asks for, or the error says what it lacks."""
        check_class("adapter", type(adapter).__name__, type(adapter))

    def test_declares_what_it_must_be_able_to_do(
        self, adapter: Any, required: frozenset[str]
    ) -> None:
        """Every capability is a known one, and the required ones are declared."""
        name = type(adapter).__name__
        check_capabilities(
            "adapter", name, adapter.capabilities, required=required, extra=self.extra
        )

    def test_serves_the_model_type_of_its_model(self, adapter: Any, family: TinyFamily) -> None:
        """``model_types`` lists the tiny model's own type."""
        found = family.model.config.model_type  # type: ignore[union-attr]
        if found not in adapter.model_types:
            pytest.fail(f"model_types is {adapter.model_types}; the tiny model's type is {found!r}")

    def test_declares_what_the_stack_shows(self, adapter: Any, lab: Lab) -> None:
        """Windows, position channels, tables and injections agree with the capabilities."""
        prompt = lab.stack.embed_prompt(**lab.inputs([self._longest(lab)]))
        layers = range(lab.stack.depth)
        shown = {
            "m-rope": lab.stack.channels > 1,
            "sliding-window": any(lab.stack.window(layer) for layer in layers),
            "layered-rope": len({lab.stack.rope_key(layer) for layer in layers}) > 1,
            "deepstack": bool(prompt.inject),
            "bidirectional-image": prompt.blocks is not None,
        }
        for capability, there in shown.items():
            declared = capability in lab.capabilities
            if there and not declared:
                pytest.fail(f"the stack shows {capability!r}, which the adapter does not declare")
            if declared and not there and len(variants(adapter)) == 1:
                pytest.fail(f"the adapter declares {capability!r}, which the stack does not show")

    def test_pictures_have_the_declared_numbers_of_tokens(self, lab: Lab) -> None:
        """Only with dynamic resolution do pictures of different sizes differ in visual tokens."""
        if "image" not in lab.capabilities or "pruning" not in lab.capabilities:
            pytest.skip("takes no pictures, or has no visual tokens in its prompts")
        rows = [TinyRow(("image",), 3, seed) for seed in range(8)]
        counts = [lab.stack.embed_prompt(**lab.inputs([row])).visual_counts[0] for row in rows]
        declared = "dynamic-resolution" in lab.capabilities
        if declared and len(set(counts)) == 1:
            pytest.fail(
                f"declares 'dynamic-resolution', but pictures of the seeds 0 to 7 all have "
                f"{counts[0]} visual tokens; vary their sizes with the seed in `inputs`"
            )
        if not declared and len(set(counts)) > 1:
            pytest.fail(
                f"pictures have {min(counts)} to {max(counts)} visual tokens; declare "
                "'dynamic-resolution'"
            )
        if declared and "batch" in lab.capabilities:
            pair = [rows[counts.index(min(counts))], rows[counts.index(max(counts))]]
            found = lab.stack.embed_prompt(**lab.inputs(pair)).visual_counts
            if found != [min(counts), max(counts)]:
                pytest.fail(
                    f"two pictures have {found} visual tokens in a batch, {min(counts)} and "
                    f"{max(counts)} alone"
                )

    def test_leaves_files_alone(self, adapter: Any, lab: Lab) -> None:
        """Nothing is written, moved or removed while it works, and no program is started."""
        with leaving_files_alone(type(adapter).__name__):
            adapter.stack(lab.family.model)
            lab.run(lab.batch()[-1:], new_tokens=2)

    # -- decoding ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", MEDIA)
    def test_plain_decoding_equals_the_models_own_generate(
        self, lab: Lab, required: frozenset[str], kind: str
    ) -> None:
        """Greedy decoding through the stack gives the tokens of ``generate``."""
        need("adapter", kind, lab.capabilities, required)
        rows = [lab.row(kind, seed=7)]
        checks.same_tokens(
            lab,
            self._audited(lab, lab.run(rows)),
            lab.own_tokens(rows),
            f"plain decoding of a prompt with {rows[0].media or 'text'}",
            "Positions go on after the prompt's highest one (Prompt.next_rope, next_index)",
        )

    def test_plain_decoding_of_a_padded_batch(self, lab: Lab, required: frozenset[str]) -> None:
        """A left-padded batch gives what ``generate`` gives for each row."""
        need("adapter", "batch", lab.capabilities, required)
        rows = lab.batch()
        checks.same_tokens(
            lab,
            self._audited(lab, lab.run(rows)),
            [lab.own_tokens([row])[0] for row in rows],
            "plain decoding of a left-padded batch",
            "Each row has its own next position, and padding is never stored",
        )

    @pytest.mark.parametrize("kind", MEDIA)
    def test_a_chat_that_goes_on(self, lab: Lab, required: frozenset[str], kind: str) -> None:
        """A second turn gives the tokens of ``generate``; drafting changes none, pruned or not."""
        need("adapter", kind, lab.capabilities, required)
        first = lab.row(kind, seed=7)
        turn = lab.next_turn(first, lab.run([first]).tokens[0])
        plain = lab.run([turn])
        where = f"the second turn of a chat with {first.media or 'text'}"
        checks.same_tokens(
            lab,
            self._audited(lab, plain),
            lab.own_tokens([turn]),
            where,
            "Each prompt starts afresh: keep nothing of the one before in the stack or the model",
        )
        if not first.media or "pruning" not in lab.capabilities:
            return
        plain = lab.run([turn], pruner=self._pruner(lab, wipes=True))
        drafter, twig = ShapedDrafter(TREE), lab.twig("half")
        trace = lab.run([turn], drafter, twig=twig, pruner=self._pruner(lab, wipes=True))
        checks.kept_as_scored(trace)
        checks.same_tokens(
            lab, self._audited(lab, trace), plain.tokens, f"{where}, pruned", "Drafting is exact"
        )

    def test_its_steps_can_be_captured(self, lab: Lab) -> None:
        """Embedding, layers and head of a step do what a CUDA graph can repeat, on any device."""
        row = self._longest(lab)
        hint = "Make what embed_tokens(), rope() and head() need once, in __init__"
        try:
            found = captured_tokens(lab, [row], LevelDrafter(), lab.twig("half"))
        except CapabilityError as reason:
            pytest.skip(str(reason))
        except CaptureError as error:
            pytest.fail(f"a step cannot be captured: {error}. {hint}")
        if found != lab.own_tokens([row]):
            pytest.fail(f"captured steps gave {found}, the model itself {lab.own_tokens([row])}")

    # -- pruning -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("wipes", [True, False], ids=["wiped", "kept to the end"])
    @pytest.mark.parametrize("many", [False, True], ids=["one prompt", "batch"])
    def test_pruned_equals_a_masked_full_length_run(
        self, lab: Lab, required: frozenset[str], wipes: bool, many: bool
    ) -> None:
        """Dropping tokens equals hiding them, at their original positions, from the own model."""
        need("adapter", "pruning", lab.capabilities, required)
        rows = lab.batch() if many else [lab.visual_row()]
        trace = self._audited(lab, lab.run(rows, pruner=self._pruner(lab, wipes)))
        checks.kept_as_scored(trace)
        checks.cache_holds_kept(trace)
        for number, row in enumerate(rows):
            seen = trace.seen_by_layer(number, lab.stack.depth)
            tokens, length = trace.tokens[number], trace.prompt.lengths[number]
            logits = lab.own_logits(row, tokens[:-1], seen)[length - 1 :]
            checks.close(
                trace.logits[0].view(len(rows), -1)[number],
                logits[0],
                f"the pruned prompt of row {number} ({row.media or 'text'})",
                "Kept tokens keep their original positions, windows count in original indices, "
                "and injected features are pruned with their tokens",
            )
            checks.same_tokens(
                lab,
                trace,
                [*trace.tokens[:number], logits.argmax(-1).tolist(), *trace.tokens[number + 1 :]],
                f"decoding after a pruned prompt with {row.media or 'text'}",
                "Generated tokens stand after the ORIGINAL prompt, not after what is left of it",
            )

    def test_without_pruning_there_is_nothing_to_prune(self, lab: Lab) -> None:
        """A family that does not declare pruning marks no visual tokens."""
        if "pruning" in lab.capabilities:
            pytest.skip("declares 'pruning'")
        prompt = lab.stack.embed_prompt(**lab.inputs([lab.batch()[-1]]))
        if bool(prompt.visual.any()):
            pytest.fail("visual tokens lie in the prompt, so declare 'pruning'")

    # -- speculation -------------------------------------------------------------------------------

    def test_every_node_of_a_tree_sees_its_own_path(self, lab: Lab) -> None:
        """Logits at every node equal the model's own forward along the node's path."""
        row = self._longest(lab)
        trace = lab.run([row], ShapedDrafter(TREE), twig=lab.twig("half"), new_tokens=6)
        for number, step in enumerate(trace.drafter.steps[:2]):
            known = 1 + sum(trace.gains[0][:number])
            if known > len(trace.tokens[0]):
                break
            self._check_paths(lab, row, trace, number, trace.tokens[0][: known - 1], step.tree(0))

    @pytest.mark.parametrize(
        ("shape", "agreement"), [*((shape, "half") for shape in SHAPES), ("tree", "always")]
    )
    def test_speculation_equals_plain_decoding(self, lab: Lab, shape: str, agreement: str) -> None:
        """Drafting in any shape, in a batch, pruned or not, changes no token."""
        rows = lab.batch() if "batch" in lab.capabilities else lab.batch()[:1]
        drafter = ShapedDrafter(SHAPES[shape], spare=3 if shape == "cut tree" else 0)
        pruners: list[ScoredPruner | None] = [None]
        if "pruning" in lab.capabilities:
            pruners.append(self._pruner(lab, wipes=True))
        for pruner in pruners:
            plain = lab.run(rows, pruner=pruner)
            trace = lab.run(rows, drafter, twig=lab.twig(agreement), pruner=pruner)
            where = f"drafting a {shape}" + (" after a pruned prompt" if pruner else "")
            checks.same_tokens(
                lab, self._audited(lab, trace), plain.tokens, where, "Verification must be exact"
            )
            if agreement == "always" and pruner is None and not drafter.spare:
                gains = [gain for row in trace.gains for gain in row[:-1]]
                if gains and min(gains) <= drafter.height:
                    pytest.fail(
                        f"{where}: a twig of all remaining layers gained only {min(gains)} tokens "
                        f"in a step, expected {drafter.height + 1}; make_twig_layer(), windows or "
                        "injections of the twig differ from those of the layers that it copies, or "
                        "copy_head() from the base's head"
                    )

    # -- the twig ----------------------------------------------------------------------------------

    def test_twig_layers_own_their_weights(self, lab: Lab) -> None:
        """A twig shares no weight with the base, and training it never reaches the base."""
        base = lab.family.model
        twig = lab.twig("untrained")
        if parameters_of(twig) & parameters_of(base):
            pytest.fail("make_twig_layer() shares weights with the base; copy the layer")
        flags = [p.requires_grad for p in base.parameters()]
        base.requires_grad_(False)
        try:
            prompt = lab.stack.embed_prompt(**lab.inputs([lab.batch()[-1]]))
            rope = lab.stack.rope(prompt.hidden, prompt.rope)
            windows = lab.stack.windows(0, lab.stack.depth)
            masks = prompt_masks(prompt, windows)
            hidden = lab.stack.run(
                prompt.hidden, 0, lab.exit_layer, rope=rope, masks=masks, inject=prompt.inject
            )
            states = twig.run(hidden, lab.stack, rope=rope, masks=masks, inject=prompt.inject)
            twig.heads["lm"](twig.norm(states)).square().mean().backward()
            touched = [name for name, p in base.named_parameters() if p.grad is not None]
            asleep = [name for name, p in twig.named_parameters() if p.grad is None]
        finally:
            for parameter, flag in zip(base.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
            twig.zero_grad()
        if touched:
            pytest.fail(f"the gradient reached the base: {', '.join(touched[:3])}")
        if asleep:
            pytest.fail(f"no gradient reached the twig's {', '.join(asleep[:3])}")

    # -- steps that the checks share ---------------------------------------------------------------

    @staticmethod
    def _audited(lab: Lab, trace: Trace) -> Trace:
        """Check caches and work of a run before its tokens are looked at."""
        checks.audited(trace)
        checks.computed_once(trace, lab.exit_layer if trace.drafter.inner.heads else 0)
        return trace

    @staticmethod
    def _pruner(lab: Lab, wipes: bool) -> ScoredPruner:
        """A pruner that keeps few tokens after the exit layer."""
        return ScoredPruner(5, lab.exit_layer, lab.stack.depth - 2 if wipes else None)

    @staticmethod
    def _check_paths(
        lab: Lab, row: TinyRow, trace: Trace, number: int, known: list[int], tree: TokenTree
    ) -> None:
        """Compare the logits of one step's nodes with the own model along their paths."""
        verified = trace.logits[1 + number][0][tree.node]
        for above in tree.ancestors()[tree.children == 0]:
            path = above.nonzero()[:, 0].tolist()
            tokens = known + tree.token[path].tolist()
            own = lab.own_logits(row, tokens)[-len(path) :]
            for place, node in enumerate(path):
                checks.close(
                    verified[node],
                    own[place],
                    f"step {number + 1}, node {node} at depth {place} of a tree",
                    "run() must use the masks that it is given (prefix and own ancestors only), "
                    "and rope() the positions (prefix plus depth)",
                )


__all__ = ["SHAPES", "TREE", "AdapterConformance"]
