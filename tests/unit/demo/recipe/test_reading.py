"""Where the base reads: what is counted, and that it is the attention of the stock model."""

from itertools import islice

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from twigkit.demo.recipe import reading
from twigkit.demo.recipe.accuracy import FIRST, WEIGHTS, turns
from twigkit.demo.world import draw, draw_with_owners
from twigkit.io.processors import load_processor


def test_what_is_shown_is_what_the_stock_model_attends_to():
    scene, turn = next(turns(FIRST))
    model = LlavaForConditionalGeneration.from_pretrained(
        WEIGHTS / "base", dtype=torch.float32, attn_implementation="eager"
    )
    processor = load_processor(WEIGHTS / "base")
    text = f"USER: <image>\n{turn.question} ASSISTANT: {turn.answer}"
    inputs = processor(images=draw(scene), text=text, return_tensors="pt")
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    (visual,) = (inputs["input_ids"][0] == model.config.image_token_index).nonzero(as_tuple=True)
    owners = draw_with_owners(scene)[1].reshape(-1)
    words = len(turn.answer.split())
    shown = {"rows of the text": [], "rows of the answer": [], "last prompt row alone": []}
    spans = (slice(visual[-1] + 1, -words), slice(-words - 1, None), [-words - 1])
    for attention in attentions:
        for name, rows in zip(shown, spans, strict=True):
            scores = attention[0, :, rows][..., visual].sum((0, 1))
            best = scores.argsort(descending=True)[: reading.KEPT]
            shown[name].append(float(all(item in owners[best] for item in turn.about)))
    found = reading.measure(WEIGHTS / "base", 1)
    assert found["questions"] == 1
    assert found["shown"] == shown
    assert {0.0, 1.0} <= {each for layers in shown.values() for each in layers}
    share = [float(a[0, :, visual[-1] + 1 :][..., visual].sum(-1).mean()) for a in attentions]
    assert found["visual"] == pytest.approx(share, abs=1e-3)


def test_questions_about_nothing_are_left_out():
    found = reading.measure(WEIGHTS / "base", 12)
    asked = [turn for _, turn in islice(turns(FIRST), 12)]
    assert found["questions"] == sum(bool(turn.about) for turn in asked)
