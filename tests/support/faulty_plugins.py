"""Plug-ins with one fault each, put through the kit by ``test_planted_faults.py``.

Not collected by itself: every class here is meant to be red. A fault that a plug-in can have is
planted in a plug-in; one that only the core can have is planted by wrapping the core's part for the
length of the class.
"""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import twigkit.generation.prefill
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import step_masks
from twigkit.backbone.prompt import Prompt
from twigkit.backbone.row_counts import RowCounts
from twigkit.generation.visual_choice import keep_indices
from twigkit.interfaces.pruner import Selection, Stage
from twigkit.plugins.discovery import default_registry
from twigkit.testing import (
    AdapterConformance,
    DrafterConformance,
    HeadConformance,
    PrunerConformance,
    ShapedDrafter,
)

torch.set_num_threads(1)

Llava = default_registry().get("adapter", "llava").cls
TTP = default_registry().get("pruner", "ttp")
LM = default_registry().get("head", "lm")
SSD = default_registry().get("drafter", "ssd")


def adapter_of(stack_class):
    """An adapter whose stack has a fault."""

    class Faulty(Llava):
        def stack(self, model):
            ids = (model.config.image_token_id,)
            return stack_class(model, model.model.language_model, visual_ids=ids)

    return Faulty()


class AdapterFault(AdapterConformance):
    stack_class = LayerStack

    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls):
        return adapter_of(cls.stack_class)


class CausalStack(LayerStack):
    def run(self, hidden, first, last, *, masks, cache=None, **options):
        if cache is not None and cache.staged:
            masks = step_masks(cache, None, masks, hidden.dtype, self.query_groups)
        return super().run(hidden, first, last, masks=masks, cache=cache, **options)


class TestCausalMaskOnATree(AdapterFault):
    stack_class = CausalStack


class IndexStack(LayerStack):
    def rope(self, hidden, positions):
        steps = torch.arange(positions.shape[2])
        tied = (positions[..., 1:] <= positions[..., :-1]).any()
        return super().rope(hidden, positions[..., :1] + steps if tied else positions)


class TestIndexInsteadOfDepth(AdapterFault):
    stack_class = IndexStack


class TwistedStack(LayerStack):
    def unrotate(self, states, cos, sin):
        return super().unrotate(states, cos, -sin)


class TestRotationTheWrongWay(AdapterFault):
    stack_class = TwistedStack


class RenumberedPrompt(Prompt):
    def select(self, *args):
        shorter = super().select(*args)
        return replace(shorter, rope=torch.arange(shorter.rope.shape[2]).expand_as(shorter.rope))


class RenumberingStack(LayerStack):
    def assemble(self, *args):
        return RenumberedPrompt(**vars(super().assemble(*args)))


class TestRenumberedPositions(AdapterFault):
    stack_class = RenumberingStack


class RememberingStack(LayerStack):
    """Takes the place where the answer goes on from the first prompt with the same picture."""

    def embed_prompt(self, **inputs):
        prompt = super().embed_prompt(**inputs)
        if "pixel_values" not in inputs:
            return prompt
        known = self.__dict__.setdefault("known", {})
        places = {"next_rope": prompt.next_rope, "next_index": prompt.next_index}
        return replace(prompt, **known.setdefault(inputs["pixel_values"].sum().item(), places))


class TestPositionsOfTheTurnBefore(AdapterFault):
    stack_class = RememberingStack


class HidingStack(LayerStack):
    def head(self, hidden):
        logits = super().head(hidden)
        logits[..., [98, 99]] += 0.0
        return logits


class TestHeadOfNumbersOnTheHost(AdapterFault):
    stack_class = HidingStack


class RepeatingStack(LayerStack):
    def run(self, hidden, first, last, **options):
        super().run(hidden, first, last, **options)
        return super().run(hidden, first, last, **options)


class TestLayerComputedTwice(AdapterFault):
    stack_class = RepeatingStack


class SharingStack(LayerStack):
    def make_twig_layer(self, source, local, config):
        layer = super().make_twig_layer(source, local, config)
        layer.mlp = self.text.layers[source].mlp
        return layer.requires_grad_(True)


class TestTwigOfTheBasesOwnWeights(AdapterFault):
    stack_class = SharingStack


class CoreFault(PrunerConformance):
    """A fault of the core, seen through a sound pruner."""

    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return TTP.cls(TTP.spec())

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def planted(cls):
        with pytest.MonkeyPatch.context() as patch:
            cls.plant(patch)
            yield


class TestWrongKeptSet(CoreFault):
    @staticmethod
    def plant(patch):
        worst = lambda scores, prompt, counts: keep_indices(-scores, prompt, counts)  # noqa: E731
        patch.setattr(twigkit.generation.prefill, "keep_indices", worst)


class TestUnsortedIndices(CoreFault):
    @staticmethod
    def plant(patch):
        def unsorted(scores, prompt, counts):
            order, alive, lengths = keep_indices(scores, prompt, counts)
            ranked = scores.gather(1, order).masked_fill(~alive, -1.0).argsort(dim=1, stable=True)
            return order.gather(1, ranked), alive.gather(1, ranked), lengths

        patch.setattr(twigkit.generation.prefill, "keep_indices", unsorted)


class StickySegment(Segment):
    def commit(self, count, offsets=None):
        super().commit(RowCounts.of([self.staged] * len(count.host), count.device.device))


class TestCacheNotRolledBack(CoreFault):
    @staticmethod
    def plant(patch):
        patch.setattr(twigkit.generation.prefill, "Segment", StickySegment)


class GenerousPruner(TTP.cls):
    def stages(self, layout):
        first, *rest = super().stages(layout)
        counts = zip(first.keep, layout.visual, strict=True)
        keep = [min(count + 1, visual) for count, visual in counts]
        return [Stage(first.layer, keep, first.attention, first.rows), *rest]


class TestOffByOneBudget(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return GenerousPruner(TTP.spec())


class CallingPruner(TTP.cls):
    def select(self, context, stage):
        subprocess.run(["true"], check=True)
        return super().select(context, stage)


class TestCallsAProgram(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return CallingPruner(TTP.spec())


class ScalingPruner(TTP.cls):
    def select(self, stage, context):
        scores = super().select(stage, context).scores
        return Selection(scores / float(scores.max()))


class TestAsksForAScore(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return ScalingPruner(TTP.spec())


class LastPlacePruner(TTP.cls):
    def select(self, stage, context):
        last = context.hidden[:, -1:]
        return Selection((context.hidden * last).sum(-1))


class TestTakesTheLastPlace(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return LastPlacePruner(TTP.spec())


class StingyPruner(TTP.cls):
    def stages(self, layout):
        first, *rest = super().stages(layout)
        keep = [max(count - 1, 0) for count in first.keep]
        return [Stage(first.layer, keep, first.attention, first.rows), *rest]


class TestOneTokenTooFew(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return StingyPruner(TTP.spec())


class DeafPruner(TTP.cls):
    def stages(self, layout):
        return super().stages(replace(layout, wipe_layer=None))


class TestIgnoresTheWipeLayer(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return DeafPruner(TTP.spec())


class ChangingPruner(TTP.cls):
    def select(self, stage, context):
        return replace(super().select(stage, context), hidden=context.hidden * 1.01)


class TestReplacesStatesInSecret(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return ChangingPruner(TTP.spec())


class HeadFault(HeadConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return LM.spec()


class BorrowedHead(LM.cls):
    @classmethod
    def grow(cls, spec, stack):
        return cls(stack.model.get_output_embeddings(), stack.vocabulary)


class TestGradientIntoTheBase(HeadFault):
    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls):
        return BorrowedHead


class LenientHead(LM.cls):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False, assign=assign)


class TestStateDictNotStrict(HeadFault):
    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls):
        return LenientHead


class DetachedHead(LM.cls):
    def forward(self, hidden):
        return super().forward(hidden.detach())


class TestStatesDetached(HeadFault):
    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls):
        return DetachedHead


class ForgetfulHead(LM.cls):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.scale = torch.rand(())  # neither parameter nor buffer: not saved

    def forward(self, hidden):
        return super().forward(hidden) * self.scale


class TestStateNotSaved(HeadFault):
    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls):
        return ForgetfulHead


class DrafterFault(DrafterConformance):
    drafter_class = ShapedDrafter

    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls):
        return cls.drafter_class((0, 0, 1, 1))

    @pytest.fixture(scope="class", params=["always"])
    @classmethod
    def agreement(cls, request):
        return request.param


class IndexDrafter(ShapedDrafter):
    def draft(self, draft_model, candidates, room):
        table = super().draft(draft_model, candidates, room)
        table.depth[:, 1:] = torch.arange(1, table.capacity)
        return table


class TestDepthIsTheIndex(DrafterFault):
    drafter_class = IndexDrafter


class CausalDrafter(ShapedDrafter):
    def draft(self, draft_model, candidates, room):
        table = super().draft(draft_model, candidates, room)
        table.ancestors.copy_(torch.ones_like(table.ancestors).tril())
        return table


class TestAncestorsAreCausal(DrafterFault):
    drafter_class = CausalDrafter


class SpecLessDrafter(ShapedDrafter):
    def __init__(self):
        super().__init__((0, 0, 1, 1))


class TestTakesNoSpec(DrafterFault):
    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls):
        return SpecLessDrafter()


class TidyingDrafter(ShapedDrafter):
    def draft(self, draft_model, candidates, room):
        Path("/no-such-folder/no-such-file").unlink(missing_ok=True)
        return super().draft(draft_model, candidates, room)


class TestTidiesUp(DrafterFault):
    drafter_class = TidyingDrafter


class FickleDrafter(ShapedDrafter):
    def draft(self, draft_model, candidates, room):
        tree = super().draft(draft_model, candidates, room)
        return tree.first(tree.size - int(tree.tokens[0, 0]) % 2)


class TestShapesFollowValues(DrafterFault):
    drafter_class = FickleDrafter


class RepeatingDrafter(ShapedDrafter):
    def draft(self, draft_model, candidates, room):
        draft_model.expand(candidates, torch.zeros_like(candidates.tokens[:, :1]))
        return super().draft(draft_model, candidates, room)


class TestNodeExpandedTwice(DrafterFault):
    drafter_class = RepeatingDrafter


class DrawingFault(DrafterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls):
        return cls.drafter_class(SSD.spec(draws=True, threshold=0.0))


class PickyDrafter(SSD.cls):
    def draft(self, draft_model, candidates, room):
        table = super().draft(draft_model, candidates, room)
        if table.sampled:  # a drawn token is dropped because of what it is
            table.alive[:, 1:] &= (table.tokens[:, 1:] % 3 > 0).cumprod(1).bool()
        return table


class TestDrawnTokenDropped(DrawingFault):
    drafter_class = PickyDrafter


class LyingDrafter(SSD.cls):
    def draft(self, draft_model, candidates, room):
        table = super().draft(draft_model, candidates, room)
        if table.sampled:  # q is not what the tokens were drawn from
            table.proposal = table.proposal.square()
            table.proposal /= table.proposal.sum(-1, keepdim=True).clamp(min=1e-9)
        return table


class TestWrongProposal(DrawingFault):
    drafter_class = LyingDrafter


class SecretDrafter(SSD.cls):
    capabilities = frozenset({"batch"})


class TestDrawsInSecret(DrawingFault):
    drafter_class = SecretDrafter


class AskingDrafter(SSD.cls):
    def draft_level(self, draft_model, candidates, level, sure):
        sure = super().draft_level(draft_model, candidates, level, sure)
        return sure if sure.sum().item() else sure & False


class TestAsksInALevel(DrafterFault):
    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls):
        return AskingDrafter(SSD.spec())


class MoodyDrafter(SSD.cls):
    def draft(self, draft_model, candidates, room):
        self.spec = self.spec.replace(threshold=float(torch.rand(())))
        return super().draft(draft_model, candidates, room)


class TestAnswersDependOnMore(DrawingFault):
    drafter_class = MoodyDrafter


class ProudLlava(Llava):
    capabilities = Llava.capabilities | {"dynamic-resolution"}


class TestAllPicturesAreEqual(AdapterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls):
        return ProudLlava()
