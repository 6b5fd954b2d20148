"""Samples come from files, Hugging Face datasets and factories alike."""

import json
import os
import sys

import numpy as np
import pytest

from tests.support.processors import picture
from twigkit.demo.recipe.stream import Stream
from twigkit.errors import InputError, SpecError
from twigkit.training.data.record_formats import VISUAL
from twigkit.training.data.sample import BrokenSampleError, Sample
from twigkit.training.data.sources import Reader, open_source, read_records
from twigkit.training.spec import DataSpec

RECORDS = [
    {
        "id": f"r{i}",
        "image": f"{i}.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhät?"},
            {"from": "gpt", "value": "x" * (1 + 40 * i)},
        ],
    }
    for i in range(3)
]


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        picture(i).save(pictures / f"{i}.png")
    (tmp_path / "list.json").write_text(json.dumps(RECORDS))
    lines = "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS)
    (tmp_path / "lines.jsonl").write_text(f"\n{lines}\n\n", encoding="utf-8")
    return tmp_path


def data(folder, name, **options):
    return DataSpec(path=str(folder / name), images=str(folder / "pictures"), **options)


@pytest.mark.parametrize("name", ["list.json", "lines.jsonl"])
def test_files_of_conversations_are_read(folder, name):
    reader = open_source(data(folder, name))
    assert len(reader) == 3
    sample = reader.read(2)
    assert sample.id == "r2"
    assert sample.messages[0].text == "<image>\nWhät?"
    assert sample.pictures[0].size == (20, 20)
    assert reader.name(1) == "r1 (number 1)"
    lengths = reader.lengths()
    assert (np.diff(lengths) > 0).all()
    assert VISUAL < lengths[0] < 2 * VISUAL


def test_pictures_lie_beside_the_file_unless_a_folder_is_named(folder):
    for i in range(3):
        picture(i).save(folder / f"{i}.png")
    reader = open_source(DataSpec(path=str(folder / "list.json")))
    assert reader.read(0).pictures


def test_a_line_that_is_no_json_is_one_broken_sample(folder):
    path = folder / "lines.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    reader = open_source(data(folder, "lines.jsonl"))
    assert len(reader) == 4
    assert reader.read(1)
    with pytest.raises(BrokenSampleError, match="not valid JSON"):
        reader.read(3)
    assert reader.name(3) == "3"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "[1, 2", "not valid JSON"),
        ("a.json", '{"a": 1}', "holds a dict; expected a list"),
        ("a.json", "[]", "holds no samples"),
        ("a.jsonl", "", "holds no samples"),
        ("a.jsonl", "\n\n", "holds no samples"),
        ("a.csv", "x", "ends in .json or .jsonl"),
        ("missing.json", None, "cannot be read"),
        ("missing.jsonl", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_list_of_records_is_an_error(folder, name, content, told):
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=told):
        open_source(data(folder, name))


@pytest.mark.parametrize("name", ["pipe.json", "pipe.jsonl", "zero.json", "zero.jsonl"])
def test_what_is_no_regular_file_is_refused_before_it_is_read(folder, name):
    if name.startswith("pipe"):
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="no regular file"):
        open_source(data(folder, name))


def test_a_folder_of_pictures_that_is_not_there_is_an_error(folder):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere.*data\.images"):
        open_source(DataSpec(path=str(folder / "list.json"), images=str(folder / "nowhere")))


def test_lines_are_not_parsed_before_they_are_asked_for(folder):
    (folder / "many.jsonl").write_text("nonsense\n" * 1000)
    records = read_records(folder / "many.jsonl")
    assert len(records) == len(records.lengths()) == 1000


def test_a_factory_gives_samples_or_records(monkeypatch, folder):
    class Made(list):
        pass

    def make(count=1, path=None):
        first = Sample("s", [], []) if path == "empty" else Stream(4)[0]
        return Made([first, {"image": picture(), "question": "q", "answer": "a"}][:count])

    module = type(sys)("a_stranger_s_module")
    module.make = make
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = "a_stranger_s_module:make"
    allowed = {"allow_sources": [source, "a_stranger_s_module:take", "no_such_module:make"]}
    reader = open_source(DataSpec(source=source, options={"count": 2}), **allowed)
    assert len(reader) == 2
    assert reader.read(0).messages[1].role == "assistant"
    assert reader.read(1).id == "1"
    assert reader.lengths() is None
    other = open_source(DataSpec(source=source), path="empty", **allowed)
    with pytest.raises(BrokenSampleError, match="empty"):
        other.read(0)
    for options, told in (({"sides": 3}, r"refuses its options \['sides'\]"), ({"count": 0}, None)):
        with pytest.raises((SpecError, InputError), match=told or "holds no samples"):
            open_source(DataSpec(source=source, options=options), **allowed)
    module.make = lambda: 3
    with pytest.raises(SpecError, match="returned a int; expected a sequence"):
        open_source(DataSpec(source=source), **allowed)
    module.make = lambda: 1 / 0
    with pytest.raises(SpecError, match="fails: ZeroDivisionError: division by zero"):
        open_source(DataSpec(source=source), **allowed)
    for wrong in ("a_stranger_s_module:take", "no_such_module:make"):
        with pytest.raises(SpecError, match="cannot be found"):
            open_source(DataSpec(source=wrong), **allowed)


def test_a_spec_alone_calls_no_function(tmp_path):
    proof = tmp_path / "proof"
    data = DataSpec(source="os:system", options={"command": f"touch {proof}"})
    with pytest.raises(SpecError, match=r"calls none: .*--allow-source os:system"):
        open_source(data)
    assert not proof.exists()


def test_the_module_of_a_function_that_is_not_allowed_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "runs_when_imported.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = DataSpec(source="runs_when_imported:make")
    with pytest.raises(SpecError, match="calls none"):
        open_source(data)
    with pytest.raises(SpecError, match="cannot be found: it ran"):
        open_source(data, allow_sources=[data.source])


def test_whatever_a_source_raises_is_about_the_item():
    class Moody(list):
        def __getitem__(self, index):
            raise ZeroDivisionError("mood")

    reader = Reader(Moody([1]))
    with pytest.raises(BrokenSampleError, match="ZeroDivisionError: mood"):
        reader.read(0)
    assert reader.name(0) == "0"


def test_lengths_must_fit_the_samples():
    class Wrong(list):
        def lengths(self):
            return [1, 2]

    with pytest.raises(InputError, match=r"gives .* lengths; give one for each"):
        Reader(Wrong([1])).lengths()


def test_hugging_face_datasets_are_read(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    pictures = [picture(i) for i in range(3)]
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "texts": datasets.List(
                {"user": datasets.Value("string"), "assistant": datasets.Value("string")}
            ),
        }
    )
    rows = {
        "images": [[pictures[0]], [pictures[1], pictures[2]], []],
        "texts": [[{"user": f"q{i}", "assistant": "a" * (1 + 9 * i)}] for i in range(3)],
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "parquet" / "train.parquet")
    for path in ("saved", "parquet"):
        reader = open_source(DataSpec(source="datasets", path=str(tmp_path / path)))
        assert len(reader) == 3
        sample = reader.read(1)
        assert sample.messages[0].text == "<image>\n<image>\nq1"
        assert sample.pictures[0].tobytes() == pictures[1].tobytes()
        assert reader.read(2).pictures == []
        assert (np.diff(reader.lengths()) > 0).all()
    turns = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]
    datasets.Dataset.from_dict({"messages": turns}).save_to_disk(tmp_path / "turns")
    assert open_source(DataSpec(source="datasets", path=str(tmp_path / "turns"))).read(0)
    datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(tmp_path / "plain")
    with pytest.raises(InputError, match="has the columns text; expected conversations"):
        open_source(DataSpec(source="datasets", path=str(tmp_path / "plain")))
    with pytest.raises(InputError, match="split 'test', cannot be loaded"):
        open_source(DataSpec(source="datasets", path=str(tmp_path / "parquet"), split="test"))


def test_other_pictures_in_a_dataset_are_noticed(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "question": text, "answer": text})

    def reader(name, *seeds):
        rows = {"image": [picture(seed) for seed in seeds]}
        rows |= {"question": ["q"] * len(seeds), "answer": ["a"] * len(seeds)}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / name)
        return open_source(DataSpec(source="datasets", path=str(tmp_path / name)))

    one, same, other = reader("one", 1, 2), reader("same", 1, 2), reader("other", 1, 3)
    assert one.digest() == same.digest() == other.digest()
    assert one.picture_digest() == same.picture_digest() != other.picture_digest()


def test_without_the_package_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'twigkit\[datasets\]'"):
        open_source(DataSpec(source="datasets", path="anything"))


def test_what_opens_a_picture_raises_is_about_the_item(folder):
    records = [{"image": "p.png", "question": "q", "answer": "a"}] * 2
    records[1] = {**records[1], "image": "half of a pair \udc80.png"}
    (folder / "list.json").write_text(json.dumps(records))
    (folder / "pictures" / "p.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    reader = open_source(data(folder, "list.json"))
    for index in range(2):
        with pytest.raises(BrokenSampleError):
            reader.read(index)


def test_a_list_nested_beyond_all_bounds_is_an_error(folder):
    (folder / "list.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not valid JSON"):
        open_source(data(folder, "list.json"))


def test_a_dataset_s_pictures_start_no_other_program(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    rows = {"image": [{"bytes": eps, "path": None}], "question": ["q"], "answer": ["a"]}
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "question": text, "answer": text})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    reader = open_source(DataSpec(source="datasets", path=str(tmp_path / "saved")))
    with pytest.raises(BrokenSampleError, match="<bytes> is not a picture"):
        reader.read(0)
