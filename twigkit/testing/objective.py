"""Conformance of objectives: does the loss add up, repeat, and train what it says and no more?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from twigkit.interfaces.objective import BatchSize, LossTerm, Objective, Workload
from twigkit.interfaces.tiny_models import TinyRow
from twigkit.learning.batch import IGNORED, Batch, Turn
from twigkit.plugins.contracts import check_class
from twigkit.specs.run import TwigSpec
from twigkit.testing import checks
from twigkit.testing.disk_watch import leaving_files_alone
from twigkit.testing.lab import Lab, parameters_of, plainest_adapter, variants
from twigkit.testing.watch import LayerWatch
from twigkit.twig.module import Twig, grow

SEED = 7
"""Seed that the checks call an objective with."""

ANSWER = 3
"""Answer tokens of the first row of a batch; each further row has one more."""

Outcome = tuple[dict[str, LossTerm], dict[str, Any]]
"""What an objective's call returns."""


class ObjectiveConformance:
    """Subclass it, override the fixtures ``objective_class`` and ``spec``, and run pytest.

    Attributes:
        heads: Heads of the twig that is trained, by name, which is also their registered kind.
        draws_always: Whether the objective draws random numbers without gradients, too; its sums
            are then not compared between a batch and its rows.
    """

    heads: tuple[str, ...] = ("lm",)
    draws_always: bool = False

    @pytest.fixture(scope="class")
    @classmethod
    def objective_class(cls) -> Any:
        """The class under test; override this."""
        pytest.fail("override the fixture `objective_class` to return your objective's class")

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> Any:
        """Settings to make it with; override this."""
        pytest.fail("override the fixture `spec` to return your objective's spec")

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls) -> Lab:
        """A tiny base, the plainest that twigkit serves."""
        adapter = plainest_adapter()
        return Lab(adapter, next(iter(variants(adapter).values()))())

    @pytest.fixture
    def objective(self, objective_class: Any, spec: Any, lab: Lab) -> Objective:
        """The objective on a fresh twig, in training mode."""
        return make_objective(objective_class, spec, lab, self.heads)

    # -- the checks --------------------------------------------------------------------------------

    def test_has_what_its_contract_lists(self, objective: Objective) -> None:
        """The class has all that registration asks for, or the error says what it lacks."""
        check_class("objective", type(objective).__name__, type(objective))

    def test_the_spec_survives_yaml(self, spec: Any) -> None:
        """The spec comes back the same from YAML."""
        if type(spec).from_yaml(spec.to_yaml()) != spec:
            pytest.fail(f"{type(spec).__name__} does not come back the same from YAML")

    def test_registers_exactly_what_trains(self, objective: Objective, lab: Lab) -> None:
        """Everything of the twig that requires a gradient is registered; nothing of the base is."""
        registered = {id(p) for p in objective.parameters()}
        twig = dict(objective.twig.named_parameters())
        left = [n for n, p in twig.items() if p.requires_grad and id(p) not in registered]
        if left:
            pytest.fail(
                f"the twig's {', '.join(left[:3])} require a gradient but are not registered, so "
                "they would never train: register their module, or set requires_grad_(False)"
            )
        if parameters_of(objective) & parameters_of(lab.family.model):
            pytest.fail(
                "parameters of the base are registered; keep the base out of the submodules: "
                "`self.stack` gives it without registering it"
            )
        if not any(p.requires_grad and id(p) in registered for p in twig.values()):
            pytest.fail("nothing of the twig trains; let at least one parameter require a gradient")

    def test_leaves_files_alone(self, objective: Objective, lab: Lab) -> None:
        """Nothing is written, moved or removed while it works, and no program is started."""
        with leaving_files_alone(type(objective).__name__):
            call(objective, batch_of(lab))

    def test_loss_and_gradients_are_finite(self, objective: Objective, lab: Lab) -> None:
        """Every term is a finite scalar, gradients are finite, and some are not zero."""
        batch = batch_of(lab)
        terms, _ = call(objective, batch)
        for name, term in terms.items():
            if term.total.ndim or not bool(term.total.isfinite()):
                pytest.fail(f"the term {name!r} is {_shown(term.total)}; expected a finite scalar")
        loss_of(objective, terms, batch).backward()  # type: ignore[no-untyped-call]
        found = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
        bad = [name for name, grad in found.items() if not bool(grad.isfinite().all())]
        if bad:
            pytest.fail(f"the gradient of {', '.join(bad[:3])} is not finite")
        if not any(bool(grad.any()) for grad in found.values()):
            pytest.fail("every gradient is zero: the objective has nothing to learn from")

    @pytest.mark.parametrize("pictures", [True, False], ids=["pictures", "text"])
    def test_every_trained_parameter_takes_part(
        self, objective: Objective, lab: Lab, pictures: bool
    ) -> None:
        """Every call reaches every trained parameter, with pictures or without."""
        batch = batch_of(lab) if pictures else text_batch(lab)
        loss_of(objective, call(objective, batch)[0], batch).backward()  # type: ignore[no-untyped-call]
        asleep = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
        if asleep:
            what = "with pictures" if pictures else "without pictures"
            pytest.fail(
                f"in a batch {what} no gradient reached {', '.join(asleep[:3])}; several processes "
                "would wait for it forever. Freeze what no term reaches, and add zero times the "
                "parameters where a term is absent"
            )

    def test_counts_name_every_unit(self, objective: Objective, lab: Lab) -> None:
        """Terms and sums are divided by units that are counted, without running anything."""
        batch = batch_of(lab)
        with LayerWatch(lab.stack) as watch:
            counts = objective.counts(batch)
            ran = any(watch.take())
        if ran:
            pytest.fail("counts() runs the base; it must look at the batch alone")
        if set(objective.counts(text_batch(lab))) != set(counts):
            pytest.fail("counts() gives other names for a batch without pictures; count zero there")
        terms, sums = call(objective, batch)
        for name, term in terms.items():
            if term.unit not in counts:
                pytest.fail(
                    f"the term {name!r} is a sum over {term.unit!r}, which counts() does not name; "
                    f"it names {', '.join(counts)}"
                )
        for name in sums:
            _, stroke, below = name.partition("/")
            if stroke and below not in counts and below not in sums:
                pytest.fail(
                    f"the sum {name!r} is to be divided by {below!r}, which is neither a unit of "
                    f"counts() ({', '.join(counts)}) nor a sum"
                )

    def test_names_are_always_the_same(self, objective: Objective, lab: Lab) -> None:
        """Terms and sums have the same names in every batch, in training and in evaluation."""
        wanted: tuple[set[str], set[str]] | None = None
        for batch in (batch_of(lab), text_batch(lab)):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    terms, sums = call(objective, batch)
                wanted = wanted or (set(terms), set(sums))
                for known, found in zip(wanted, (set(terms), set(sums)), strict=True):
                    if known != found:
                        pytest.fail(
                            f"{', '.join(sorted(known ^ found))} is there in some calls only; give "
                            "every term and sum in every call, zero where there is none"
                        )
        with torch.no_grad():
            further = [set(objective.examine(batch)) for batch in (batch_of(lab), text_batch(lab))]
        if further[0] != further[1]:
            pytest.fail(f"examine() gives {sorted(further[0] ^ further[1])} in some calls only")

    def test_the_seed_decides(self, objective: Objective, lab: Lab) -> None:
        """The same seed gives the same terms and sums; a run that resumes depends on it."""
        batch = batch_of(lab)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                first, again = call(objective, batch), call(objective, batch)
            for name, value in flat(first).items():
                if not torch.equal(value, flat(again)[name]):
                    pytest.fail(
                        f"{name} is {_shown(value)}, and {_shown(flat(again)[name])} in a second "
                        "call with the same seed; draw everything from the seed that is handed over"
                    )

    def test_sums_add_up_over_split_batches(self, objective: Objective, lab: Lab) -> None:
        """A batch comes to what its rows come to one by one: sums, not means."""
        if self.draws_always:
            pytest.skip("draws without gradients, too")
        with torch.no_grad():
            whole, rows = batch_of(lab), [batch_of(lab, row) for row in range(3)]
            wanted: dict[str, Tensor] = {}
            for batch in rows:
                for name, value in flat(call(objective, batch)).items():
                    wanted[name] = wanted.get(name, torch.zeros(())) + value
            found = flat(call(objective, whole))
        hint = "Return sums over units; the trainer divides by what counts() says"
        for name, value in found.items():
            checks.close(value, wanted[name], f"{name} of a batch, and of its rows", hint)
        counts = [objective.counts(batch) for batch in rows]
        for name, count in objective.counts(whole).items():
            if count != sum(row[name] for row in counts):
                pytest.fail(f"counts() gives {count} {name!r} for a batch, and another sum by rows")

    def test_leaves_everything_else_alone(self, objective: Objective, lab: Lab) -> None:
        """A training step moves what is registered; base and frozen twig stay as they are."""
        base, batch = lab.family.model, batch_of(lab)
        flags = [p.requires_grad for p in base.parameters()]
        base.requires_grad_(True)  # what would be trained by accident shows
        own = {id(p) for p in objective.parameters() if p.requires_grad}
        others = {f"base.{name}": p for name, p in base.named_parameters()}
        others |= {f"twig.{n}": p for n, p in objective.twig.named_parameters() if id(p) not in own}
        before = {name: p.detach().clone() for name, p in others.items()}
        try:
            optimiser = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.1)
            loss_of(objective, call(objective, batch)[0], batch).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            reached = [name for name, p in others.items() if p.grad is not None]
            moved = [name for name, p in others.items() if not torch.equal(p, before[name])]
        finally:
            base.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, parameter in others.items():
                    parameter.copy_(before[name])
            for parameter, flag in zip(base.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
        if reached or moved:
            pytest.fail(
                f"a training step reached {', '.join([*reached, *moved][:3])}; run the base under "
                "torch.no_grad(), as embed_batch() and run_base() do, and freeze the rest"
            )

    def test_runs_in_half_precision(self, objective: Objective, lab: Lab) -> None:
        """Under autocast to bfloat16, as the trainer runs it, the loss is finite."""
        batch = batch_of(lab)
        with torch.autocast("cpu", torch.bfloat16):
            terms, _ = call(objective, batch)
        loss = loss_of(objective, terms, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in objective.parameters() if p.grad is not None]
        if not (bool(loss.isfinite()) and all(bool(grad.isfinite().all()) for grad in grads)):
            pytest.fail("loss or gradient is not finite under autocast to bfloat16")

    def test_evaluations_can_be_compared(self, objective: Objective, lab: Lab) -> None:
        """The criterion is a number, from the figures that an evaluation has."""
        batch = batch_of(lab)
        with torch.no_grad():
            terms, sums = call(objective, batch)
            sums = sums | objective.examine(batch)
            loss = float(loss_of(objective, terms, batch))
        counts = objective.counts(batch)
        means = {}
        for name, value in sums.items():
            above, stroke, below = name.partition("/")
            if stroke:
                divisor = float(counts[below] if below in counts else sums[below])
                means[above] = float(value) / divisor if divisor else 0.0
        criterion = objective.criterion(loss, means)
        if not isinstance(criterion, float) or criterion != criterion:
            pytest.fail(f"criterion() gives {criterion!r}; expected a number")

    def test_says_what_it_runs(self, objective: Objective) -> None:
        """The workload is not negative and does not shrink as batches grow."""
        sizes = [BatchSize(rows, 200 * rows, 64 * rows) for rows in (1, 4)]
        small, large = (objective.workload(size) for size in sizes)
        for name in ("twig_tokens", "base_tokens", "kept", "logits"):
            one, four = getattr(small, name), getattr(large, name)
            if not (isinstance(small, Workload) and 0 <= one <= four):
                pytest.fail(f"workload() gives {name} {one} for one row and {four} for four")


def make_objective(cls: Any, spec: Any, lab: Lab, heads: tuple[str, ...]) -> Objective:
    """Make an objective on a fresh twig whose weights are moved off their start.

    Args:
        cls: The objective's class.
        spec: Its settings.
        lab: The base.
        heads: The twig's heads.

    Returns:
        The objective, in training mode.
    """
    made = TwigSpec(
        base="tiny", exit_layer=lab.exit_layer, depth=2, heads={name: name for name in heads}
    )
    twig: Twig = grow(made, lab.stack)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in twig.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    objective: Objective = cls(spec, lab.stack, twig)
    if not isinstance(objective, Objective):
        pytest.fail(f"{cls.__name__} is no subclass of twigkit.interfaces.objective.Objective")
    return objective.train()


def batch_of(lab: Lab, row: int | None = None) -> Batch:
    """Make three samples, two with pictures and one of text, or one of them alone.

    Args:
        lab: The base.
        row: Which sample; ``None`` for all.
    """
    rows = [lab.visual_row(9, 1), TinyRow((), 12, 2), lab.visual_row(7, 3)]
    lengths = [ANSWER, ANSWER + 1, ANSWER + 2]
    if row is not None:
        rows, lengths = rows[row : row + 1], lengths[row : row + 1]
    return _batch(lab, rows, lengths)


def text_batch(lab: Lab) -> Batch:
    """Make two samples without pictures."""
    return _batch(lab, [TinyRow((), 9, 4), TinyRow((), 6, 5)], [ANSWER, ANSWER + 1])


def _batch(lab: Lab, rows: list[TinyRow], lengths: list[int]) -> Batch:
    """Take the last tokens of some prompts for their answers."""
    inputs = lab.family.inputs(rows)
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    end, turns = labels.shape[1], []
    for place, length in enumerate(lengths):
        labels[place, -length:] = inputs["input_ids"][place, -length:]
        turns.append([Turn(end - length - 1, end - length, end)])
    names = [f"sample-{row.seed}" for row in rows]
    return Batch(inputs, labels, turns, names, visual=[bool(row.media) for row in rows])


def call(objective: Objective, batch: Batch) -> Outcome:
    """Call an objective as the trainer does."""
    torch.manual_seed(SEED)
    outcome: Outcome = objective(batch, 0.5, SEED)
    return outcome


def loss_of(objective: Objective, terms: dict[str, LossTerm], batch: Batch) -> Tensor:
    """Add up the terms, each a mean over its units."""
    counts = objective.counts(batch)
    return torch.stack([t.weight * t.total / max(1, counts[t.unit]) for t in terms.values()]).sum()


def flat(outcome: Outcome) -> dict[str, Tensor]:
    """Name all numbers of an outcome."""
    terms, sums = outcome
    found = {f"the term {name!r}": term.total.detach().float() for name, term in terms.items()}
    return found | {f"the sum {n!r}": torch.as_tensor(v).float() for n, v in sums.items()}


def _shown(value: Tensor) -> str:
    return f"{float(value.detach()):.6g}" if not value.ndim else f"a tensor {list(value.shape)}"


__all__ = ["ObjectiveConformance"]
