"""Every registered objective goes through the kit; with a fault planted, the kit goes red."""

from typing import Literal

import pytest
import torch

from twigkit.interfaces.learning import embed_batch, find_answers, run_base, run_twig
from twigkit.interfaces.objective import LossTerm, Objective, ObjectiveSpec, Workload
from twigkit.plugins.discovery import default_registry
from twigkit.testing import Lab, ObjectiveConformance, plainest_adapter
from twigkit.testing.lab import variants
from twigkit.testing.objective import make_objective

torch.set_num_threads(1)

ENTRIES = [e for e in default_registry().entries("objective") if e.distribution == "twigkit"]
SETTINGS = {"reinforcement": {"budgets": (0.4, 0.6), "group": 4}}
"""Settings that the eight layers of the tiny base ask for; the published budgets need more."""


def test_both_stages_are_registered():
    assert {entry.name for entry in ENTRIES} == {"distillation", "reinforcement"}


class TestBuiltInObjectives(ObjectiveConformance):
    heads = ("lm", "pruning", "medusa")

    @pytest.fixture(scope="class", params=ENTRIES, ids=lambda entry: entry.name)
    @classmethod
    def entry(cls, request):
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def objective_class(cls, entry):
        return entry.cls

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, entry):
        return entry.spec(**SETTINGS.get(entry.name, {}))


# -- planted faults --------------------------------------------------------------------------------


class SoundSpec(ObjectiveSpec):
    kind: Literal["sound"] = "sound"


class SoundObjective(Objective):
    """Next tokens by the twig's head; the faulty ones below differ from it in one thing each."""

    def __init__(self, spec, stack, twig):
        super().__init__(spec, stack, twig)
        self.trained = twig

    def states(self, batch):
        prompt = embed_batch(self.stack, batch)
        shared, _ = run_base(self.stack, prompt, 0, self.twig.exit_layer)
        return run_twig(self.stack, self.twig, shared)[0]

    def losses(self, batch):
        answers = find_answers(batch)
        normed = self.twig.norm(answers.states(self.states(batch)))
        logits = self.twig.head("lm")(normed[None])[0].float()
        return torch.nn.functional.cross_entropy(logits, answers.targets, reduction="none")

    def forward(self, batch, progress, seed):
        losses = self.losses(batch)
        return {"fit": LossTerm(losses.sum(), "tokens", 1.0)}, {"seen/tokens": len(losses)}


class Mean(SoundObjective):
    def losses(self, batch):
        found = super().losses(batch)
        return found / len(found)


class Forgotten(SoundObjective):
    """Registers the norm alone and leaves the layers trainable."""

    def __init__(self, spec, stack, twig):
        Objective.__init__(self, spec, stack, twig)
        self.trained = twig.norm


class Whole(SoundObjective):
    """Registers the base."""

    def __init__(self, spec, stack, twig):
        super().__init__(spec, stack, twig)
        self.base = stack.model


class Idle(SoundObjective):
    """Trains a parameter that batches without pictures do not reach."""

    def __init__(self, spec, stack, twig):
        super().__init__(spec, stack, twig)
        self.extra = torch.nn.Parameter(torch.ones(()))

    def losses(self, batch):
        found = super().losses(batch)
        return found * self.extra if any(batch.visual) else found


class Frozen(SoundObjective):
    def __init__(self, spec, stack, twig):
        super().__init__(spec, stack, twig)
        twig.requires_grad_(False)


class Infinite(SoundObjective):
    def losses(self, batch):
        return super().losses(batch) - torch.tensor(0.0).log()


class Uncounted(SoundObjective):
    def forward(self, batch, progress, seed):
        terms, sums = super().forward(batch, progress, seed)
        terms["fit"].unit = "words"
        return terms, sums


class Undivided(SoundObjective):
    def forward(self, batch, progress, seed):
        return super().forward(batch, progress, seed)[0], {"seen/words": 1.0}


class Sometimes(SoundObjective):
    def forward(self, batch, progress, seed):
        terms, sums = super().forward(batch, progress, seed)
        return terms, sums | ({"pictures/samples": 1.0} if any(batch.visual) else {})


class Secret(SoundObjective):
    generator = torch.Generator().manual_seed(0)

    def losses(self, batch):
        found = super().losses(batch)
        return found * torch.rand(len(found), generator=self.generator)


class Costly(SoundObjective):
    def counts(self, batch):
        self.states(batch)
        return batch.counts()


class Leaking(SoundObjective):
    """Applies the base's head with gradients."""

    def losses(self, batch):
        answers = find_answers(batch)
        states = answers.states(self.states(batch))
        logits = self.stack.head(self.twig.norm(states)).float()
        return super().losses(batch) + logits.logsumexp(-1)


class Shrinking(SoundObjective):
    def workload(self, size):
        return Workload(1000 - size.tokens, size.tokens)


class Unjudged(SoundObjective):
    def criterion(self, loss, means):
        return None


FAULTS = [
    (Mean, "sums_add_up_over_split_batches", r"'fit' of a batch, and of its rows: differs .* Retu"),
    (Forgotten, "registers_exactly_what_trains", "layers.0.* require a gradient but are not regis"),
    (Whole, "registers_exactly_what_trains", "parameters of the base are registered"),
    (Frozen, "registers_exactly_what_trains", "nothing of the twig trains"),
    (Idle, "every_trained_parameter_takes_part", "without pictures no gradient reached extra"),
    (Infinite, "loss_and_gradients_are_finite", "the term 'fit' is inf; expected a finite scalar"),
    (Uncounted, "counts_name_every_unit", "'fit' is a sum over 'words', which counts.. does not"),
    (Undivided, "counts_name_every_unit", "'seen/words' is to be divided by 'words'"),
    (Costly, "counts_name_every_unit", "runs the base; it must look at the batch alone"),
    (Sometimes, "names_are_always_the_same", "pictures/samples is there in some calls only"),
    (Secret, "the_seed_decides", "in a second call with the same seed"),
    (Leaking, "leaves_everything_else_alone", "a training step reached base.lm_head.weight"),
    (Shrinking, "says_what_it_runs", "gives twig_tokens 800 for one row and 200 for four"),
    (Unjudged, "evaluations_can_be_compared", "gives None; expected a number"),
]


@pytest.fixture(scope="module")
def lab():
    adapter = plainest_adapter()
    return Lab(adapter, next(iter(variants(adapter).values()))())


def carry_out(check, cls, lab):
    """Run one check of the kit on an objective, as pytest would."""
    objective = make_objective(cls, SoundSpec(), lab, ("lm",))
    known = {"objective": objective, "lab": lab, "pictures": False}
    method = getattr(ObjectiveConformance(), f"test_{check}")
    names = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    method(**{name: known[name] for name in names})


@pytest.mark.parametrize(
    ("cls", "check", "said"), FAULTS, ids=lambda held: getattr(held, "__name__", "")
)
def test_a_planted_fault_turns_a_check_red(lab, cls, check, said):
    with pytest.raises(pytest.fail.Exception, match=said):
        carry_out(check, cls, lab)


@pytest.mark.parametrize("check", sorted({check for _, check, _ in FAULTS}))
def test_the_same_check_is_green_without_the_fault(lab, check):
    carry_out(check, SoundObjective, lab)


def test_what_is_no_objective_is_said(lab):
    class Module(torch.nn.Module):
        def __init__(self, spec, stack, twig):
            super().__init__()

    with pytest.raises(pytest.fail.Exception, match=r"Module is no subclass of .*Objective"):
        make_objective(Module, SoundSpec(), lab, ("lm",))
