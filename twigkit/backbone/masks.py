"""Attention masks: which tokens of a prompt, a step or a probed row see which keys.

Every mask of the library is made here. A mask is bool, ``True`` where a key may be seen, until
:func:`render` turns the masks of a step into the additive form that the attention function takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.prompt import Prompt
from twigkit.backbone.recurrent_states import RECURRENT
from twigkit.backbone.row_spans import RowSpans

Masks = Mapping[int | None, Tensor | None]
"""Attention masks by window; ``None`` as a key stands for layers that see everything.

What recurrent layers are given under :data:`RECURRENT` says which tokens are no padding.
"""


# -- prompts ---------------------------------------------------------------------------------------


class PromptMasks(Mapping[int | None, Tensor | None]):
    """Masks of a prompt's own tokens, each made when a layer first asks for it.

    Layers that take rows one by one (:func:`twigkit.backbone.row_spans.attend_rows`) ask for none.
    """

    def __init__(self, prompt: Prompt, windows: Iterable[int | None]) -> None:
        """Take the prompt and the windows of the layers that will run."""
        self._prompt, self._windows = prompt, tuple(dict.fromkeys(windows))
        self._made: dict[int | None, Tensor | None] = {}
        self._seen: Tensor | None = None

    def __getitem__(self, window: int | None) -> Tensor | None:
        if window not in self._windows:
            raise KeyError(window)
        if window not in self._made:
            self._made[window] = self._make(window)
        return self._made[window]

    def __iter__(self) -> Iterator[int | None]:
        return iter(self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def spans(self, window: int | None) -> RowSpans | None:
        """Return where each row's tokens lie, if a row sees all of its own before it.

        Args:
            window: Window of the layer.

        Returns:
            ``None`` where no row is padded, so that the batch needs no mask either, and where a
            mask says more.
        """
        prompt = self._prompt
        if window == RECURRENT or prompt.unpadded or prompt.blocks is not None:
            return None
        if not self._reaches(window):
            return None
        return RowSpans.of(prompt.lengths, prompt.hidden.shape[1])

    def _reaches(self, window: int | None) -> bool:
        return window is None or self._prompt.span <= window

    def _plain(self, window: int | None) -> bool:
        """Whether the prompt has blocks, but a layer of this window knows of none."""
        return window is None and self._prompt.blocks_slide

    def _make(self, window: int | None) -> Tensor | None:
        prompt, reaches = self._prompt, self._reaches(window)
        if window == RECURRENT:
            return None if prompt.unpadded else prompt.valid
        if prompt.unpadded and reaches and (prompt.blocks is None or self._plain(window)):
            return None
        if self._plain(window):
            return _prompt_mask(replace(prompt, blocks=None))[:, None]
        if self._seen is None:
            self._seen = _prompt_mask(prompt)
        near = self._seen
        if not reaches and window is not None:
            near = near & within(window, prompt.index, prompt.index)
            if prompt.blocks is not None and not prompt.blocks_slide:  # see all of themselves
                near = near | (same_block(prompt.blocks) & prompt.valid[:, None, :])
        return near[:, None]


def prompt_masks(prompt: Prompt, windows: Iterable[int | None]) -> PromptMasks:
    """Make the masks of a prompt's own tokens.

    Args:
        prompt: The tokens; their order and original index decide who sees whom.
        windows: Windows of the layers that will run.

    Returns:
        By window: ``None`` where plain causal attention is right (which keeps fused kernels
        eligible), or ``[batch, 1, tokens, tokens]`` bool; for recurrent layers ``[batch,
        tokens]``.
    """
    return PromptMasks(prompt, windows)


def _prompt_mask(prompt: Prompt) -> Tensor:
    """Which tokens see which, ``[batch, tokens, tokens]`` bool; padding sees itself."""
    tokens, device = prompt.hidden.shape[1], prompt.hidden.device
    seen = causal(tokens, tokens, device)[None]
    if prompt.blocks is not None:
        seen = seen | same_block(prompt.blocks)
    return (seen & prompt.valid[:, None, :]) | torch.eye(tokens, dtype=torch.bool, device=device)


def rows_mask(
    rows: Tensor,
    keys: Tensor,
    index: Tensor | None = None,
    window: int | None = None,
    blocks: Tensor | None = None,
    slide: bool = False,
) -> Tensor:
    """Say which keys single rows of a prompt see: those up to the row itself, and its own block.

    Args:
        rows: Positions of the rows, ``[batch, rows]`` long.
        keys: Which positions may be seen at all, ``[batch, tokens]`` bool.
        index: Original sequence index of each position, ``[batch, tokens]``; needed for a window.
        window: Only keys whose original index is less than this far back, if given.
        blocks: Number of each position's block, ``[batch, tokens]``, if the family has blocks.
        slide: Whether blocks count where there is a window only, and no further than it.

    Returns:
        ``[batch, rows, tokens]`` bool.
    """
    place = torch.arange(keys.shape[1], device=keys.device)
    seen = (place <= rows[:, :, None]) & keys[:, None, :]
    near = None
    if window is not None and index is not None:
        near = within(window, index.gather(1, rows), index)
        seen = seen & near
    if blocks is not None and not (slide and window is None):
        own = blocks.gather(1, rows)[:, :, None]
        same = (own == blocks[:, None, :]) & (own >= 0) & keys[:, None, :]
        seen = seen | (same & near if slide and near is not None else same)
    return seen


# -- steps of decoding -----------------------------------------------------------------------------


def step_masks(
    segment: Segment,
    among: Tensor | None,
    windows: Iterable[int | None],
    dtype: torch.dtype,
    heads: int | Mapping[int | None, int],
) -> dict[int | None, Tensor | None]:
    """Make the masks of the nodes that were staged last in a segment of the KV cache.

    Args:
        segment: The segment, with the nodes staged.
        among: Which staged nodes each of them may see, ``[batch, nodes, staged]`` bool; ``None``
            for a path, where a node sees all that were staged before it and itself.
        windows: Windows of the layers that will run.
        dtype: Of the states.
        heads: Query heads per key head, perhaps by window.

    Returns:
        Additive masks by window; see :func:`render`.
    """
    # A step's nodes are no padding, so recurrent layers need no mask.
    seen = {w: None if w == RECURRENT else segment_mask(segment, among, w) for w in windows}
    return render(seen, dtype, heads)


def segment_mask(
    segment: Segment, among: Tensor | None = None, window: int | None = None
) -> Tensor | None:
    """Say which slots of a segment's view the nodes staged last may see.

    Args:
        segment: The segment, with the nodes staged.
        among: Which staged nodes each of them may see, ``[batch, nodes, staged]`` bool; ``None``
            for a path.
        window: Only tokens whose original index is less than this far back, if given.

    Returns:
        ``[batch, nodes, view]`` bool, or ``None`` if every slot of the view may be seen.
    """
    slots = segment.node_slots
    batch, nodes = slots.shape
    if not segment.bucketed and batch == 1 and among is None and nodes == 1 and window is None:
        return None
    slot = torch.arange(segment.view, device=slots.device)
    offset = slot - segment.lengths.device[:, None]
    if among is None:
        node = torch.arange(segment.staged - nodes, segment.staged, device=slots.device)
        seen = offset[:, None, :] <= node[:, None]
    else:
        inside = (offset >= 0) & (offset < segment.staged)
        column = offset.clamp(0, segment.staged - 1)[:, None, :].expand(-1, nodes, -1)
        seen = (offset < 0)[:, None] | (among.gather(2, column) & inside[:, None])
    if window is not None:
        index = segment.index[:, : segment.view]
        seen = seen & within(window, segment.index.gather(1, slots), index)
    return seen


def render(
    allowed: Mapping[int | None, Tensor | None],
    dtype: torch.dtype,
    heads: int | Mapping[int | None, int],
) -> dict[int | None, Tensor | None]:
    """Turn the masks of a step into what the attention function wants.

    Grouped heads are packed into the query axis there, so the mask is repeated along it, once for
    all layers, and made additive, which spares every layer a conversion.

    Args:
        allowed: Which keys may be seen, by window: ``[batch, nodes, slots]`` bool or ``None``.
        dtype: Of the queries.
        heads: Query heads per key head, perhaps by window.

    Returns:
        Additive masks ``[batch, 1, heads * nodes, slots]`` by window.
    """
    masks: dict[int | None, Tensor | None] = {}
    for window, seen in allowed.items():
        if seen is None:
            masks[window] = None
            continue
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
        groups = heads if isinstance(heads, int) else heads[window]
        masks[window] = mask.repeat(1, 1, groups, 1) if seen.shape[1] > 1 else mask
    return masks


# -- parts of masks --------------------------------------------------------------------------------


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """Let each of the last ``queries`` of ``keys`` tokens see itself and all before it.

    Returns:
        ``[queries, keys]`` bool.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def same_block(blocks: Tensor) -> Tensor:
    """Say which tokens are of the same block, where -1 is none.

    Args:
        blocks: Number of each token's block, ``[batch, tokens]``.

    Returns:
        ``[batch, tokens, tokens]`` bool.
    """
    return (blocks[:, :, None] == blocks[:, None, :]) & (blocks >= 0)[:, :, None]


def within(window: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Say which keys lie less than ``window`` tokens before which query.

    Args:
        window: Tokens that a layer sees, the query's own included.
        queries: Original sequence index of the queries, ``[batch, queries]``.
        keys: That of the keys, ``[batch, keys]``.

    Returns:
        ``[batch, queries, keys]`` bool.
    """
    return queries[:, :, None] - keys[:, None, :] < window
