"""Labels are the answers and their end tokens, whatever the base's template and pictures."""

import pytest
import torch

from tests.support.processors import (
    CHATML,
    INSTRUCT,
    PICTURES,
    VICUNA,
    VIDEOS,
    byte_tokenizer,
    picture,
    text_only,
)
from tests.support.versions import skip_before_pinned
from twigkit.errors import CheckpointError, TrainingError
from twigkit.io.processors import prepare
from twigkit.learning.batch import IGNORED
from twigkit.training.data.chat_template import Renderer
from twigkit.training.data.encoding import BrokenRowsError, Encoder
from twigkit.training.data.sample import BrokenSampleError, Message, Sample

ENDS = {"gemma3": (2, 4), "idefics3": (), "llava": (), "llava_next": ()}
LAST = {
    "gemma3": "<end_of_turn>",
    "idefics3": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>",
    "qwen2_vl": "<|im_end|>",
    "text_only": "<|im_end|>",
}


def talk(*words):
    """Turns by turns: the user's, the assistant's, and so on."""
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(words)]


SAMPLES = {
    "one": Sample("one", talk("<image>\nWhat is it?", "a cat"), [picture(1)]),
    "turns": Sample(
        "turns", talk("<image>\nWhat?", "a dog", "Sure?", "yes, it is"), [picture(2, 40, 20)]
    ),
    "several": Sample(
        "several",
        talk("<image><image>\nCompare.", "one is red", "And <image>?", "blue"),
        [picture(3), picture(4), picture(5)],
    ),
    "late": Sample("late", talk("Hi", "hello", "<image> now", "seen"), [picture(6)]),
    "text": Sample("text", talk("2+2?", "4", "3+3?", "6")),
}


def encoder(name, **options):
    make = {**PICTURES, **VIDEOS, "text_only": text_only}[name]
    return Encoder(Renderer(make(), ends=ENDS.get(name, ()), **options))


def answers(enc, batch, row):
    """The labelled tokens of each turn as text, and that nothing else is labelled."""
    labels, ids = batch.labels[row], batch.inputs["input_ids"][row]
    inside = torch.zeros_like(labels, dtype=torch.bool)
    for turn in batch.turns[row]:
        assert turn.query == turn.start - 1
        inside[turn.start : turn.stop] = True
    assert torch.equal(labels[inside], ids[inside])
    assert (labels[~inside] == IGNORED).all()
    decode = enc.renderer.tokenizer.decode
    return [decode(ids[turn.start : turn.stop]).strip() for turn in batch.turns[row]]


def expected(name, sample):
    last = LAST.get(name, "</s>")
    return [message.text + last for message in sample.messages if message.role == "assistant"]


@pytest.mark.parametrize("name", PICTURES)
def test_labels_are_the_answers_with_their_end_tokens(name):
    enc = encoder(name)
    samples = list(SAMPLES.values())
    batch = enc.batch([enc.text(sample) for sample in samples])
    for row, sample in enumerate(samples):
        assert answers(enc, batch, row) == expected(name, sample)
    assert batch.ids == list(SAMPLES)
    counts = batch.counts()
    assert counts["samples"] == 5
    assert counts["visual"] == 4
    assert counts["tokens"] == sum(t.stop - t.start for turns in batch.turns for t in turns)


@pytest.mark.parametrize("name", PICTURES)
def test_a_row_is_the_same_alone_and_beside_others(name):
    enc = encoder(name)
    texts = [enc.text(sample) for sample in SAMPLES.values()]
    together = enc.batch(texts)
    for row, text in enumerate(texts):
        alone = enc.batch([text])
        width = alone.labels.shape[1]
        assert torch.equal(together.labels[row, -width:], alone.labels[0])
        ids = together.inputs["input_ids"]
        assert torch.equal(ids[row, -width:], alone.inputs["input_ids"][0])
        assert not together.inputs["attention_mask"][row, :-width].any(), "padded on the left"


@pytest.mark.parametrize("name", PICTURES)
def test_the_prompt_of_each_answer_is_what_generation_would_see(name):
    enc = encoder(name)
    for sample in SAMPLES.values():
        batch = enc.batch([enc.text(sample)])
        for turn, last in zip(batch.turns[0], range(1, len(sample.messages), 2), strict=True):
            length = enc._prompt_length(enc.text(sample), last // 2)
            assert turn.start == length
            assert enc.renderer.render(sample, last).endswith(
                enc.renderer.tokenizer.decode(batch.inputs["input_ids"][0, turn.query])
            )


def test_a_base_without_pictures_takes_text_and_refuses_pictures():
    enc = encoder("text_only")
    batch = enc.batch([enc.text(SAMPLES["text"])])
    assert answers(enc, batch, 0) == expected("text_only", SAMPLES["text"])
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.counts()["visual"] == 0
    with pytest.raises(BrokenSampleError, match="takes none"):
        enc.text(SAMPLES["one"])


def test_an_end_token_is_added_only_where_the_template_has_none():
    assert encoder("llava").renderer.appended == "</s>"
    for name in ("llava_next", "idefics3", "gemma3", "text_only"):
        assert encoder(name).renderer.appended == ""


def test_an_end_token_is_added_where_only_the_last_answer_has_one():
    lazy = VICUNA.replace(
        "{% endfor %}{% if add", "{{ '</s>' if loop.last and not add_generation_prompt }}"
        "{% endfor %}{% if add"
    )  # fmt: skip
    renderer = Renderer(byte_tokenizer(["<pad>", "</s>"], template=lazy))
    assert renderer.appended == "</s>"
    text = renderer.text(SAMPLES["text"])
    decode = renderer.tokenizer.decode
    assert [decode(text.ids[a:b]).strip() for a, b in text.spans] == ["4</s>", "6</s>"]


@pytest.mark.parametrize("name", PICTURES)
def test_a_row_begins_with_the_first_token_once(name):
    enc = encoder(name)
    batch = enc.batch([enc.text(SAMPLES["one"])])
    first = enc.renderer.tokenizer.bos_token_id
    assert batch.inputs["input_ids"][0, 0] == first
    assert (batch.inputs["input_ids"] == first).sum() == 1


def test_a_template_may_replace_the_base_s_own():
    enc = encoder("llava", template=INSTRUCT)
    text = enc.text(SAMPLES["turns"])
    assert text.rendered.startswith("[INST]")
    assert answers(enc, enc.batch([text]), 0) == expected("llava", SAMPLES["turns"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('roles') }}", "cannot render"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "drops the end token"),
    ],
)
def test_a_template_that_cannot_serve_is_refused(template, message):
    tokenizer = byte_tokenizer(["<pad>", "</s>"], template=template)
    with pytest.raises(CheckpointError, match=message):
        Renderer(tokenizer)


def test_a_base_without_end_token_is_refused():
    tokenizer = byte_tokenizer(["<pad>"], eos=None, template=CHATML)
    with pytest.raises(CheckpointError, match="no end token"):
        Renderer(tokenizer)


def test_a_template_that_shows_earlier_turns_in_another_way_is_noticed():
    shortens = (
        "{% for m in messages %}{{ m['role'] }}:"
        "{{ m['content'] if loop.last or m['role'] == 'user' else 'x</s>' }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = byte_tokenizer(["<pad>", "</s>"], template=shortens)
    renderer = Renderer(tokenizer)
    renderer.text(Sample("a", talk("q", "a")))
    changed = shortens.replace("{% if add", "{{ messages|length }}{% if add")
    renderer = Renderer(byte_tokenizer(["<pad>", "</s>"], template=changed))
    with pytest.raises(BrokenSampleError, match="prompt before answer 1"):
        renderer.text(Sample("a", talk("q", "a", "r", "b")))


def test_tokens_that_flow_together_at_the_answer_are_noticed():
    tokenizer = byte_tokenizer(["<pad>", "</s>"], template=VICUNA)
    renderer = Renderer(tokenizer)
    whole = renderer._tokenise
    flows = lambda ids: [*ids[:-1], 0]  # noqa: E731
    renderer._tokenise = lambda texts: [whole(texts)[0], *map(flows, whole(texts)[1:])]
    with pytest.raises(BrokenSampleError, match="flow together"):
        renderer.text(Sample("a", talk("q", "a")))


@pytest.mark.parametrize("name", [*PICTURES, "text_only"])
def test_a_row_that_is_too_long_is_cut_off_at_every_length(name):
    """The first answer of the second row ends where it may be cut; later ones are left out."""
    sample = Sample("turns", [m for _ in range(3) for m in talk("why?", "one two three")])
    whole, pictured = encoder(name), name != "text_only"
    rows = [Sample("brief", talk("q", "a")), sample, SAMPLES["one" if pictured else "text"]]
    alone = whole.batch([whole.text(sample)])
    ids, turns = alone.inputs["input_ids"][0], alone.turns[0]
    others = [whole.batch([whole.text(row)]).labels.shape[1] for row in (rows[0], rows[2])]
    for longest in range(max(turns[0].start, *others) + 1, len(ids)):
        short = encoder(name, longest=longest)
        batch = short.batch([short.text(row) for row in rows])
        kept = [turn for turn in turns if turn.start < longest]
        stop = min(longest, kept[-1].stop)
        width = batch.labels.shape[1]
        assert width == max(stop, *others)
        left = width - stop
        assert torch.equal(batch.inputs["input_ids"][1, left:], ids[:stop])
        assert batch.inputs["attention_mask"][1].tolist() == [0] * left + [1] * stop
        assert [(t.start - left, t.stop - left) for t in batch.turns[1]] == [
            (turn.start, min(turn.stop, longest)) for turn in kept
        ]
        assert torch.equal(batch.labels[1, left:], alone.labels[0, :stop])
        together = whole.batch([whole.text(row) for row in rows])
        for row in (0, 2):
            for key in ("labels", "ids"):
                one, two = (
                    b.labels if key == "labels" else b.inputs["input_ids"]
                    for b in (batch, together)
                )
                assert torch.equal(
                    one[row, width - others[row // 2] :], two[row, -others[row // 2] :]
                )
        (told,) = batch.broken
        assert told.cut
        assert told.reason == f"{len(ids)} tokens; {len(kept)} of 3 answers are kept"


def test_a_row_is_broken_if_no_answer_or_not_all_pictures_are_within_the_longest():
    short = encoder("llava", longest=45)
    texts = [short.text(SAMPLES["one"]), short.text(Sample("brief", talk("q", "a")))]
    with pytest.raises(BrokenRowsError) as caught:
        short.batch(texts)
    assert set(caught.value.reasons) == {0}
    assert "its first answer begins after 46 tokens" in caught.value.reasons[0]
    with pytest.raises(BrokenSampleError, match=r"begins after \d+ tokens.*data\.longest, 45"):
        short.text(Sample("long", talk("q" * 50, "a")))
    with pytest.raises(BrokenRowsError) as caught:
        short.batch([short.text(SAMPLES["late"])])  # its second question has the picture
    assert "a picture lies beyond" in caught.value.reasons[0]


def test_a_row_that_the_processor_refuses_is_named():
    skip_before_pinned("takes a text with an image token and no picture")
    enc = encoder("llava")
    good = enc.text(SAMPLES["one"])
    bad = enc.text(SAMPLES["text"])
    object.__setattr__(bad, "rendered", bad.rendered + "<image>")
    with pytest.raises(BrokenRowsError) as caught:
        enc.batch([good, bad, good])
    assert set(caught.value.reasons) == {1}
    assert "the processor refuses it" in caught.value.reasons[1]


def test_a_row_of_which_the_processor_refuses_a_prompt_alone_is_named():
    enc = encoder("llava")
    texts = [enc.text(SAMPLES["several"]), enc.text(SAMPLES["text"])]
    process = enc._process

    def refusing(rows):
        if len(rows) == 1:
            raise ValueError("no pictures")
        return process(rows)

    enc._process = refusing
    with pytest.raises(BrokenRowsError) as caught:
        enc.batch(texts)
    assert set(caught.value.reasons) == {0}
    assert "refuses the prompt before answer 1: ValueError: no pictures" in caught.value.reasons[0]


def test_rows_that_are_refused_only_together_are_an_error():
    enc = encoder("llava")
    processor = enc.renderer.processor

    class Lonely:
        tokenizer = processor.tokenizer

        def __call__(self, text, **options):
            if len(text) > 1:
                raise ValueError("one at a time")
            return processor(text=text, **options)

    texts = [enc.text(SAMPLES["one"]), enc.text(SAMPLES["turns"])]
    enc.renderer.processor = Lonely()
    with pytest.raises(TrainingError, match=r"one, turns one by one.*one at a time.*micro_batch"):
        enc.batch(texts)


FILM = Sample(
    "film", talk("<video>\nWhat happens?", "it runs"), [], [[picture(i) for i in range(4)]]
)


@pytest.mark.parametrize("name", PICTURES)
def test_a_video_s_frames_can_be_shown_as_pictures(name):
    enc = encoder(name, videos="images")
    mixed = Sample(
        "mixed",
        talk("<image>\n<video>\nAlike?", "no"),
        [picture(9)],
        [[picture(1), picture(2)]],
    )
    batch = enc.batch([enc.text(FILM), enc.text(mixed)])
    assert answers(enc, batch, 0) == expected(name, FILM)
    assert answers(enc, batch, 1) == expected(name, mixed)
    if name == "llava":
        pixels = batch.inputs["pixel_values"]
        assert len(pixels) == 7
        order = enc.batch([enc.text(Sample("p", talk("<image>", "x"), [picture(9)]))])
        assert torch.equal(pixels[4], order.inputs["pixel_values"][0]), "pictures in their order"


@pytest.mark.parametrize("name", PICTURES)
def test_a_video_that_the_processor_would_ignore_is_refused(name):
    with pytest.raises(BrokenSampleError, match=r"data\.videos: images"):
        encoder(name).text(FILM)


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_go_to_the_base_s_own_video_processor(name):
    pytest.importorskip("torchvision", reason="the base's video processor needs torchvision")
    enc = encoder(name)
    batch = enc.batch([enc.text(FILM), enc.text(SAMPLES["text"])])
    assert answers(enc, batch, 0) == expected(name, FILM)
    assert batch.visual == [True, False]
    mixed = [enc.text(FILM), enc.text(SAMPLES["one"])]
    if name == "smolvlm":  # hands pictures and videos over under the same name
        with pytest.raises(TrainingError, match="one kind at once"):
            enc.batch(mixed)
    else:
        batch = enc.batch(mixed)
        assert answers(enc, batch, 1) == expected(name, SAMPLES["one"])


def test_pictures_and_videos_under_one_name_never_overwrite_each_other():
    enc = encoder("llava")

    class Both:
        tokenizer = enc.renderer.processor.tokenizer

        def image_processor(self, **_):
            return {"pixel_values": 0}

        def video_processor(self, **_):
            return {"pixel_values": 0, "grid": 0}

        def __call__(self, **_):
            raise AssertionError("must not be reached")

    one = enc.text(SAMPLES["one"])
    other = encoder("llava", videos="images")
    film = other.text(FILM)
    enc.renderer.processor = Both()
    with pytest.raises(TrainingError, match="one kind at once"):
        enc.batch([one, film])
    both = Sample("both", talk("<image><video>?", "no"), [picture(1)], FILM.videos)
    with pytest.raises(BrokenRowsError) as caught:
        enc.batch([other.text(both)])
    assert "only one kind" in caught.value.reasons[0]


@pytest.mark.parametrize("name", PICTURES)
def test_training_and_generation_see_the_same_prompt(name):
    enc = encoder(name)
    sample = Sample("one", talk("<image>\nWhat is it?", "a cat"), [picture(1)])
    batch = enc.batch([enc.text(sample)])
    asked = prepare(enc.renderer.processor, "What is it?", [picture(1)])["input_ids"]
    query = batch.turns[0][0].query
    assert torch.equal(batch.inputs["input_ids"][0, : query + 1], asked[0])
