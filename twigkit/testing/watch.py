"""Watches a generation: which nodes are passed, what the caches hold, what layers compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_stack import LayerStack
from twigkit.generation.loop import Generation
from twigkit.generation.strategy_answers import checked_tree
from twigkit.interfaces.pruner import PromptLayout, PruneContext, Selection, Stage
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree

if TYPE_CHECKING:
    from twigkit.speculative.token_tree import TokenTree


@dataclass
class Step:
    """What happened in one step.

    Attributes:
        candidates: Everything that was drafted.
        table: What was handed to verification.
        expanded: Node ids that the draft model was asked to pass, call by call.
        calls: Tokens per row that each base layer computed, call by call.
        live: Numbers of the rows that were in the batch, in its order.
    """

    candidates: DraftTree
    table: DraftTree
    expanded: list[Tensor]
    calls: list[list[int]] = field(default_factory=list)
    live: list[int] = field(default_factory=list)

    def tree(self, row: int) -> TokenTree:
        """Return what was handed to verification in one row as a graph of its living nodes."""
        from twigkit.speculative.token_tree import TokenTree  # takes seconds to import

        return TokenTree.from_draft(self.table, row)

    def most_passes(self) -> int:
        """Nodes that the shallow layers have reason to pass: each drafted or verified once."""
        size = self.table.size
        if not self.expanded:
            return size
        nodes = torch.cat(self.expanded, 1)
        source = self.table.source
        ids = torch.arange(size).expand(nodes.shape[0], -1) if source is None else source
        known = (ids[:, :, None] == nodes[:, None, :]).any(2)
        return nodes.shape[1] + int((~known).sum(1).max())


class LayerWatch:
    """Counts, with hooks on the shells, how many tokens each base layer computes."""

    def __init__(self, stack: LayerStack) -> None:
        """Hook every shell."""
        self.calls: list[list[int]] = [[] for _ in stack.layers]
        self._handles = [
            layer.register_forward_pre_hook(self._counter(number), with_kwargs=True)
            for number, layer in enumerate(stack.layers)
        ]

    def _counter(self, number: int) -> Callable[..., None]:
        def count(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.calls[number].append(hidden.shape[1])

        return count

    def take(self) -> list[list[int]]:
        """Return the calls since the last time."""
        taken, self.calls[:] = [list(calls) for calls in self.calls], [[] for _ in self.calls]
        return taken

    def __enter__(self) -> LayerWatch:
        """Count until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unhook."""
        self.remove()

    def remove(self) -> None:
        """Unhook, where no block ends."""
        for handle in self._handles:
            handle.remove()


class WatchedDraftModel:
    """A draft model that writes down what it is asked."""

    def __init__(self, inner: Any) -> None:
        """Wrap a draft model."""
        self.inner = inner
        self.expanded: list[Tensor] = []

    def expand(self, candidates: Candidates, nodes: range | Tensor) -> Tensor:
        """Write the nodes down and pass them."""
        rows = candidates.tokens.shape[0]
        ids = nodes if isinstance(nodes, Tensor) else torch.tensor([list(nodes)]).expand(rows, -1)
        self.expanded.append(ids.clone())
        return self.inner.expand(candidates, nodes)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """Do the rest as the wrapped model does."""
        return getattr(self.inner, name)


class WatchedDrafter:
    """A drafter whose steps are written down, and before each of which the caches are audited."""

    def __init__(self, inner: Any, layers: LayerWatch) -> None:
        """Wrap a drafter."""
        self.inner, self.layers = inner, layers
        self.steps: list[Step] = []
        self.problems: list[str] = []
        self.generation: Generation | None = None
        self._prefix: list[tuple[Segment, list[int], Tensor]] = []

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The wrapped drafter's, which errors name."""
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        """Do the rest as the wrapped drafter does."""
        return getattr(self.inner, name)

    def attach(self, generation: Generation, segments: list[Segment]) -> None:
        """Remember what the caches hold after the prompt."""
        self.generation = generation
        self._prefix = [(s, list(s.lengths.host), s.index.clone()) for s in segments]
        self.layers.take()

    def draft(self, draft_model: Any, candidates: Candidates, room: int) -> Any:
        """Audit, then draft and write down."""
        self.finish()
        assert self.generation is not None
        spy = WatchedDraftModel(draft_model)
        drafted = self.inner.draft(spy, candidates, room)
        table = checked_tree(self.inner, drafted)
        step = Step(frozen(candidates), frozen(table), spy.expanded)
        step.live = list(self.generation.live)
        self.steps.append(step)
        return drafted

    def finish(self) -> None:
        """Close the last step: take its layer calls and audit the caches."""
        if self.steps and not self.steps[-1].calls:
            self.steps[-1].calls = self.layers.take()
        if self.generation is not None:
            self._audit(self.generation)

    def _audit(self, generation: Generation) -> None:
        """Compare every base segment with the tokens that were accepted."""
        for segment, before, index in self._prefix:
            name = f"the cache of layers {segment.first}..{segment.last - 1}"
            where = f"after step {len(self.steps)}"
            if segment.staged:
                self._tell(f"{name} still holds {segment.staged} staged nodes {where}")
            if segment.lengths.device.tolist() != segment.lengths.host:
                self._tell(
                    f"{name} has lengths {segment.lengths.device.tolist()} on the device and "
                    f"{segment.lengths.host} on the host {where}"
                )
            for place, row in enumerate(generation.live):
                state = generation.sequences[row]
                if state.done:
                    continue
                start, new = before[row], max(len(state.tokens) - 1, 0)
                length = segment.lengths.host[place]
                if length != start + new:
                    self._tell(
                        f"{name} holds {length} tokens of row {row} {where}; expected {start} of "
                        f"the prompt and {new} accepted ones: rejected drafts must be rolled back"
                    )
                    continue
                first = int(generation.positions.index[place]) - new
                wanted = [*index[row, :start].tolist(), *range(first, first + new)]
                held = segment.index[place, :length].tolist()
                if held != wanted:
                    self._tell(f"{name} holds positions {held} of row {row} {where}, not {wanted}")

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


class WatchedPruner:
    """A pruner whose answers are written down."""

    def __init__(self, inner: Any) -> None:
        """Wrap a pruner."""
        self.inner = inner
        self.seen: list[tuple[Stage, PruneContext, Selection]] = []
        self.problems: list[str] = []

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The wrapped pruner's, which errors name."""
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        """Do the rest as the wrapped pruner does."""
        return getattr(self.inner, name)

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan as the wrapped pruner does."""
        return self.inner.stages(layout)  # type: ignore[no-any-return]

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Write the answer down, and whether the question was written over."""
        handed = {k: v for k, v in vars(context).items() if isinstance(v, Tensor)}
        for name, value in vars(context.vision).items() if context.vision else ():
            if isinstance(value, Tensor):
                handed[f"vision.{name}"] = value
        given = {name: value.clone() for name, value in handed.items()}
        selection: Selection = self.inner.select(stage, context)
        for name, value in given.items():
            if not torch.equal(value, handed[name]):
                self.problems.append(
                    f"select() wrote into context.{name} at the stage after layer {stage.layer}; "
                    "work on a copy and return what changed"
                )
        self.seen.append((stage, context, selection))
        return selection


def frozen(tree: DraftTree) -> DraftTree:
    """Copy a draft tree, whose storage the next step will use again."""
    copied = DraftTree.__new__(DraftTree)
    for name, value in vars(tree).items():
        setattr(copied, name, value.clone() if isinstance(value, Tensor) else value)
    return copied
