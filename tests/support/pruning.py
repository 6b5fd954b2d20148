"""Contexts for pruners, made by hand: one row of a first token, visual tokens and a question."""

import torch

from twigkit.backbone.probes import RowProbe, RowRecord, RowRequest
from twigkit.interfaces import PromptLayout, PruneContext, Stage, VisionView


def layout(visual=576, budget=64, depth=32, exit_layer=2, **more):
    return PromptLayout([visual], depth, exit_layer, budget, None, **more)


def context(visual, question=((0.0, 0.0),), **more):
    """Lay out states of visual tokens and of the question after a first token of zeros."""
    visual, question = torch.as_tensor(visual), torch.as_tensor(question)
    hidden = torch.cat((torch.zeros(1, visual.shape[1]), visual, question))[None]
    seen = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    seen[0, 1 : 1 + len(visual)] = True
    given = {
        "hidden": hidden,
        "visual": seen,
        "valid": torch.ones_like(seen),
        "text": ~seen,
        "index": torch.arange(hidden.shape[1])[None],
        "embedded": hidden,
    }
    return PruneContext(**(given | more))


def spread(values, tokens):
    """Put values of visual tokens where :func:`context` has them, zeros elsewhere."""
    values = torch.tensor(values)
    laid = torch.zeros(1, tokens, *values.shape[1:])
    laid[0, 1 : 1 + len(values)] = values
    return laid


def view(tokens, attention, states=None, keys=None):
    """Make a view whose projector multiplies by ten."""
    blank = [[0.0, 0.0]] * len(attention)
    return VisionView(
        states=spread(states or blank, tokens),
        attention=spread(attention, tokens),
        keys=spread(keys or blank, tokens),
        project=lambda given: 10 * given,
    )


def probe(keys, rows=(0,)):
    """Make the probe of a layer with one head, whose queries of some rows are the given keys."""
    key = torch.tensor(keys)[None, None]
    asked = torch.tensor([list(rows)])
    mask = torch.ones(1, len(rows), key.shape[2], dtype=torch.bool)
    request = RowRequest(asked, mask)
    return RowProbe(request, RowRecord(request.of_heads(key), key, 1.0, key[0], lambda: (key, key)))


def kept(pruner, keep, given, **stage):
    """Return which of the visual tokens stay, counted from the first one, and the new states."""
    asked = Stage(2, [keep], **stage)
    selection = pruner.select(asked, given)
    places = given.visual[0].nonzero()[:, 0]
    best = selection.scores[0, places].sort(descending=True, stable=True).indices[:keep]
    return sorted(best.tolist()), selection.hidden
