"""Conformance of heads: do they grow, learn, save and load, and leave the base alone?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twigkit.errors import CheckpointError
from twigkit.plugins.contracts import check_class
from twigkit.testing import checks
from twigkit.testing.capabilities import REQUIRED, check_capabilities
from twigkit.testing.disk_watch import leaving_files_alone
from twigkit.testing.lab import Lab, parameters_of, plainest_adapter, variants
from twigkit.twig.checkpoint import load_state


class HeadConformance:
    """Subclass it, override the fixtures ``head_class`` and ``spec``, and run pytest.

    A head whose ``forward`` takes something else than states overrides :meth:`use` as well.

    Attributes:
        extra: Capabilities of the author's own, each with what it promises.
        required: What the head must be able to do.
    """

    extra: dict[str, str] = {}  # noqa: RUF012 - a table that subclasses replace
    required: frozenset[str] = REQUIRED["head"]

    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls) -> Any:
        """The class under test; override this."""
        pytest.fail("override the fixture `head_class` to return your head's class")

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> Any:
        """Settings to grow it with; override this."""
        pytest.fail("override the fixture `spec` to return your head's spec")

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls) -> Lab:
        """A tiny base, the plainest that twigkit serves."""
        adapter = plainest_adapter()
        return Lab(adapter, next(iter(variants(adapter).values()))())

    @pytest.fixture
    def head(self, head_class: Any, spec: Any, lab: Lab) -> nn.Module:
        """A fresh head on the tiny base, its weights moved off their start."""
        head: nn.Module = head_class.grow(spec, lab.stack)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in head.parameters():
                if not _shared(parameter, lab):
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
        return head

    def use(self, head: nn.Module, hidden: Tensor, lab: Lab) -> Tensor:
        """Apply the head to normed states ``[batch, tokens, width]``; override for other inputs."""
        output: Tensor = head(hidden)
        return output

    @pytest.fixture(scope="class")
    @classmethod
    def hidden(cls, lab: Lab) -> Tensor:
        """States that a twig would hand the head, ``[batch, tokens, width]``."""
        width = lab.stack.embed_tokens(torch.tensor([[1]])).shape[-1]
        return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(5))

    # -- the checks --------------------------------------------------------------------------------

    def test_has_what_its_contract_lists(self, head_class: Any) -> None:
        """The class has all that registration asks for, or the error says what it lacks."""
        check_class("head", head_class.__name__, head_class)

    def test_declares_known_capabilities(self, head_class: Any) -> None:
        """Every capability is a known one, and the required ones are declared."""
        declared = getattr(head_class, "capabilities", ())
        name = head_class.__name__
        check_capabilities("head", name, declared, required=self.required, extra=self.extra)

    def test_the_spec_survives_yaml(self, spec: Any) -> None:
        """The spec comes back the same from YAML."""
        if type(spec).from_yaml(spec.to_yaml()) != spec:
            pytest.fail(f"{type(spec).__name__} does not come back the same from YAML")

    def test_grows_as_a_module(self, head: nn.Module) -> None:
        """``grow`` returns a module whose weights can be trained."""
        if not isinstance(head, nn.Module):
            pytest.fail(f"grow() returned a {type(head).__name__}; expected a torch module")
        frozen = [name for name, p in head.named_parameters() if not p.requires_grad]
        if frozen:
            pytest.fail(f"the weights {', '.join(frozen[:3])} cannot be trained")

    def test_leaves_files_alone(self, head_class: Any, spec: Any, hidden: Tensor, lab: Lab) -> None:
        """Nothing is written, moved or removed while it works, and no program is started."""
        with leaving_files_alone(head_class.__name__), torch.inference_mode():
            self.use(head_class.grow(spec, lab.stack), hidden, lab)

    def test_output_has_the_declared_shape(self, head: nn.Module, hidden: Tensor, lab: Lab) -> None:
        """Logits cover the base's vocabulary; what each token gets depends on its state alone."""
        with torch.inference_mode():
            output = self.use(head, hidden, lab)
        capabilities: frozenset[str] = getattr(head, "capabilities", frozenset())
        if bool(output.isnan().any()):
            pytest.fail("the output holds NaN")
        if not {"next-token", "several-tokens"} & set(capabilities):
            return
        if output.shape[:2] != hidden.shape[:2] or output.shape[-1] != lab.stack.vocabulary:
            pytest.fail(
                f"states {list(hidden.shape)} give {list(output.shape)}; expected [batch, tokens, "
                f"..., {lab.stack.vocabulary}], the last being the base's vocabulary"
            )
        with torch.inference_mode():
            single = self.use(head, hidden[:1, 2:3], lab)
        hint = "A drafter asks for nodes in any order, so a head must not mix tokens"
        checks.close(output[:1, 2:3], single, "one token's output, alone and among others", hint)

    def test_gradients_reach_the_states(self, head: nn.Module, hidden: Tensor, lab: Lab) -> None:
        """What a head that predicts tokens learns reaches the twig's layers as well."""
        if not {"next-token", "several-tokens"} & set(getattr(head, "capabilities", ())):
            pytest.skip("predicts no tokens")
        states = hidden.clone().requires_grad_()
        output = self.use(head, states, lab)
        output.where(output.isfinite(), 0.0).square().mean().backward()  # type: ignore[no-untyped-call]
        if states.grad is None:
            pytest.fail(
                "no gradient reached the states, so that the twig's layers would not be trained; "
                "do not detach them"
            )

    def test_owns_its_weights(self, head: nn.Module, lab: Lab) -> None:
        """No weight is shared with the base."""
        if parameters_of(head) & parameters_of(lab.family.model):
            names = [name for name, p in head.named_parameters() if _shared(p, lab)]
            pytest.fail(
                f"{', '.join(names)} share memory with the base; training the head would change "
                "the base. Copy the weights in grow()"
            )

    def test_gradients_never_reach_the_base(
        self, head: nn.Module, hidden: Tensor, lab: Lab
    ) -> None:
        """A training step reaches every weight of the head and none of the base."""
        base = lab.family.model
        flags = {name: p.requires_grad for name, p in base.named_parameters()}
        before = {name: p.detach().clone() for name, p in base.named_parameters()}
        base.zero_grad(set_to_none=True)
        optimiser = torch.optim.SGD(list(head.parameters()) or [torch.zeros(1)], lr=0.1)
        try:
            output = self.use(head, hidden, lab)
            finite = torch.where(output.isfinite(), output, 0.0)
            if any(True for _ in head.parameters()):
                finite.square().mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            touched = [name for name, p in base.named_parameters() if p.grad is not None]
            moved = [n for n, p in base.named_parameters() if not torch.equal(p, before[n])]
            asleep = [name for name, p in head.named_parameters() if p.grad is None]
        finally:
            base.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, parameter in base.named_parameters():
                    parameter.copy_(before[name])
                    parameter.requires_grad_(flags[name])
        if touched or moved:
            names = ", ".join([*touched, *moved][:3])
            pytest.fail(
                f"the gradient reached the base ({names}); copy weights in grow() and keep no "
                "reference to the base"
            )
        if asleep:
            pytest.fail(f"no gradient reached {', '.join(asleep[:3])}; are these weights used?")

    def test_saves_and_loads(
        self,
        head: nn.Module,
        head_class: Any,
        spec: Any,
        hidden: Tensor,
        lab: Lab,
        tmp_path: Path,
    ) -> None:
        """A fresh head filled with the saved weights gives the same output."""
        file = tmp_path / "head.safetensors"
        save_file({k: v.detach().clone() for k, v in head.state_dict().items()}, file)
        fresh: nn.Module = head_class.grow(spec, lab.stack)
        try:
            load_state(fresh, load_file(file), file)
        except CheckpointError as error:
            pytest.fail(f"a fresh head does not take the weights of another: {error}")
        with torch.inference_mode():
            got, want = self.use(fresh, hidden, lab), self.use(head, hidden, lab)
        hint = "Register every tensor as a parameter or a buffer, so that it is saved"
        checks.close(got, want, "the output after saving and loading", hint)

    def test_its_state_is_strict(self, head: nn.Module) -> None:
        """Weights that are missing, unknown or of another shape are refused."""
        state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        if not state:
            pytest.skip("has no weights")
        name = next(iter(state))
        wrong = {
            f"lack {name!r}": {k: v for k, v in state.items() if k != name},
            "hold the unknown name 'stranger'": {**state, "stranger": torch.zeros(1)},
            f"give {name!r} another shape": {**state, name: torch.zeros(1, 1, 1, 1, 7)},
        }
        for what, weights in wrong.items():
            for load in (lambda w: load_state(head, w, "a test"), head.load_state_dict):
                try:
                    load(weights)
                except (CheckpointError, RuntimeError):
                    continue
                pytest.fail(
                    f"weights that {what} were accepted; leave load_state_dict() and state_dict() "
                    "as torch defines them"
                )

    def test_keeps_its_precision(self, head: nn.Module, hidden: Tensor, lab: Lab) -> None:
        """The head works in the precision that it is moved to."""
        head = head.to(torch.bfloat16)
        with torch.inference_mode():
            try:
                output = self.use(head, hidden.to(torch.bfloat16), lab)
            except RuntimeError as error:
                pytest.fail(f"does not run in bfloat16: {error}")
        if not output.is_floating_point():
            pytest.fail(f"gives {output.dtype}")


def _shared(parameter: nn.Parameter, lab: Lab) -> bool:
    """Whether a weight lies in the base's memory."""
    return parameter.untyped_storage().data_ptr() in parameters_of(lab.family.model)
