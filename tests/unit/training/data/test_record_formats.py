"""Records in the usual forms become samples; what is wrong with a broken one is said."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.processors import picture
from twigkit.training.data.record_formats import id_of, sample_of
from twigkit.training.data.sample import BrokenSampleError, Message, Sample, spread_evenly


def turns(*words):
    return [{"from": ("human", "gpt")[i % 2], "value": words} for i, words in enumerate(words)]


def said(sample):
    return [(message.role, message.text) for message in sample.messages]


QA = [("user", "<image>\nWhat?"), ("assistant", "a cat")]
RED = picture(0)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"image": "a.png", "conversations": turns("<image>\nWhat?", "a cat")}, QA),
        ({"images": ["a.png"], "conversations": turns("<image>\nWhat?", " a cat ")}, QA),
        (
            {
                "image": RED,
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": "What?"}],
                    },
                    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
                ],
            },
            QA,
        ),
        (
            {
                "image": RED,
                "messages": [
                    {"role": "user", "content": "What?"},
                    {"role": "assistant", "content": "a cat"},
                ],
            },
            QA,
        ),
        ({"images": [RED], "texts": [{"user": "What?", "assistant": "a cat", "source": "x"}]}, QA),
        ({"image": RED, "question": "What?", "answer": "a cat"}, QA),
        ({"conversations": turns("2+2?", "4")}, [("user", "2+2?"), ("assistant", "4")]),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "2+2?"},
                    {"role": "assistant", "content": "4"},
                ]
            },
            [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")],
        ),
        (
            {"images": [RED, RED], "question": "Alike?", "answer": "no"},
            [("user", "<image>\n<image>\nAlike?"), ("assistant", "no")],
        ),
        (
            {"video": [RED, RED], "question": "What?", "answer": "a cat"},
            [("user", "<video>\nWhat?"), ("assistant", "a cat")],
        ),
    ],
)
def test_the_usual_forms_are_read(record, expected):
    assert said(sample_of(record, "7", Path("pictures"))) == expected


def test_paths_start_in_the_folder_and_ids_are_kept(tmp_path):
    record = {
        "id": 12,
        "image": ["a.png", "b/c.png"],
        "conversations": turns("<image><image>", "x"),
    }
    sample = sample_of(record, "0", tmp_path)
    assert sample.id == "12"
    assert sample.pictures == [tmp_path / "a.png", tmp_path / "b/c.png"]
    assert sample_of({"conversations": turns("q", "a")}, "0", tmp_path).id == "0"
    assert id_of({"id": "z"}, "0") == "z"
    assert id_of("nonsense", "0") == "0"


def test_a_video_is_a_folder_of_frames_or_a_list_of_them(tmp_path):
    for number in (2, 0, 1):
        picture(number).save(tmp_path / f"frame-{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    conversation = turns("<video>\nWhat?", "x")
    for video in (
        tmp_path.name,
        [f"{tmp_path.name}/frame-{i}.png" for i in range(3)],
        [[f"{tmp_path.name}/frame-{i}.png" for i in range(3)]],
    ):
        sample = sample_of({"video": video, "conversations": conversation}, "0", tmp_path.parent)
        assert [[frame.name for frame in video] for video in sample.videos] == [
            ["frame-0.png", "frame-1.png", "frame-2.png"]
        ]
    opened = sample.open(frames=2)
    assert [frame.size for frame in opened.videos[0]] == [(20, 20)] * 2


def test_frames_are_thinned_out_evenly():
    frames = list(range(100))
    assert spread_evenly(frames, 4) == [12, 37, 62, 87]
    assert spread_evenly(frames, 100) == frames
    assert spread_evenly(frames[:3], 8) == [0, 1, 2]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("a string", "expected a mapping"),
        ({}, "no conversation found.*nothing"),
        ({"text": "x"}, "no conversation found.*the record has text"),
        ({"conversations": []}, "empty"),
        ({"conversations": "x"}, "no list of turns"),
        ({"conversations": ["x"]}, "no list of turns"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "from='cat'"),
        ({"conversations": [{"from": "human"}]}, "NoneType"),
        ({"conversations": turns("q")}, "ends without an answer"),
        ({"conversations": turns("q", "a", "q")}, "ends without an answer"),
        ({"conversations": turns("q", " ")}, "turn 2, the assistant's, is empty"),
        ({"conversations": turns("q", "a")[::-1]}, "turn 1 is the assistant's, not the user's"),
        ({"conversations": turns("<image>", "a")}, "0 pictures, but 1 <image>"),
        ({"image": "a.png", "conversations": turns("q", "a")}, "1 picture, but 0 <image>"),
        (
            {"image": "a.png", "conversations": turns("<image><image>", "a")},
            "1 picture, but 2 <image>",
        ),
        ({"conversations": turns("<video>", "a")}, "0 videos, but 1 <video>"),
        ({"image": "a.png", "conversations": turns("q", "<image>")}, "outside of the user's turns"),
        ({"image": 3, "question": "q", "answer": "a"}, "a picture is int"),
        ({"image": "", "question": "q", "answer": "a"}, "a picture's path is empty"),
        ({"video": 3, "question": "q", "answer": "a"}, "a video is int"),
        ({"video": [[]], "question": "q", "answer": "a"}, "a video has no frames"),
        ({"video": "nowhere", "question": "q", "answer": "a"}, "no folder of frames"),
        ({"question": 3, "answer": "a"}, "text is int"),
        ({"texts": [{"user": "q"}]}, "NoneType"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "part of type 'audio'",
        ),
        (Sample("s", [Message("user", "q")]), "ends without an answer"),
        (
            Sample("s", [Message("user", "q"), Message("system", "s"), Message("assistant", "a")]),
            "system message stands after",
        ),
    ],
)
def test_what_is_wrong_with_a_broken_record_is_said(record, reason):
    with pytest.raises(BrokenSampleError, match=reason):
        sample_of(record, "0", Path("pictures"))


def test_a_video_file_asks_for_its_frames(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(BrokenSampleError, match="extract its frames"):
        sample_of({"video": "film.mp4", "question": "q", "answer": "a"}, "0", tmp_path)


def test_missing_and_damaged_pictures_are_found_when_the_sample_is_opened(tmp_path):
    picture().save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()

    def opened(name):
        return sample_of({"image": name, "question": "q", "answer": "a"}, "0", tmp_path).open(8)

    assert opened("good.png").pictures[0].mode == "RGB"
    for name, reason in {
        "missing.png": "there is no file .*missing.png",
        "half.png": "cannot be read",
        "words.png": "is not a picture",
        "folder.png": "is a folder",
    }.items():
        with pytest.raises(BrokenSampleError, match=reason):
            opened(name)


def test_pictures_in_memory_become_rgb():
    sample = sample_of(
        {"image": Image.new("L", (3, 3)), "question": "q", "answer": "a"}, "0", Path()
    )
    assert sample.open(8).pictures[0].mode == "RGB"
