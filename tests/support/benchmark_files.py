"""Small files in the formats of the benchmarks, with answers whose scores are worked out by hand.

``BENCHMARKS[name](folder)`` writes the files of a task and gives its settings, an answer to every
question, and the score of these answers.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

SIZE = (8, 8)


def picture(path: Path) -> str:
    """Write a picture and give its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, "teal").save(path)
    return path.name


def content() -> bytes:
    """The bytes of a picture whose base64 text is too long to be the number of another row."""
    file = io.BytesIO()
    Image.new("RGB", SIZE, "teal").save(file, "PNG")
    return file.getvalue()


def write(path: Path, data: object) -> str:
    """Write JSON and give the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return str(path)


def write_lines(path: Path, rows: list[dict]) -> str:
    """Write JSON Lines and give the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def frames(folder: Path, count: int = 3) -> None:
    """Write a video as a folder of frames."""
    for number in range(count):
        picture(folder / f"{number:03d}.png")


def pope(folder: Path):
    """Random: 2 true and 1 false positives, 1 missed, F1 2/3; popular: all right, F1 1."""
    name = picture(folder / "images" / "COCO_1.jpg")
    for split, labels in (
        ("random", ["yes", "yes", "yes", "no", "no"]),
        ("popular", ["yes", "no"]),
    ):
        rows = [
            {"question_id": n, "image": name, "text": f"Is there a {split} cat?", "label": label}
            for n, label in enumerate(labels)
        ]
        write_lines(folder / f"coco_pope_{split}.json", rows)
    settings = {"annotations": str(folder), "images": str(folder / "images")}
    popular = ["Yes, it is. No doubt.", "There is not, sorry"]
    random = ["yes", "Yes", "no", "Yes", "No, none"]
    return settings, [*popular, *random], 100 * (2 / 3 + 1) / 2


def gqa(folder: Path):
    """Two of three right; a question that is not balanced is not asked."""
    picture(folder / "images" / "n1.jpg")
    row = {"imageId": "n1", "question": "What is it?", "isBalanced": True}
    questions = {
        "1": {**row, "answer": "cat", "types": {"structural": "query"}},
        "2": {**row, "answer": "yes", "types": {"structural": "verify"}},
        "3": {**row, "answer": "left", "types": {"structural": "choose"}},
        "4": {**row, "answer": "dog", "isBalanced": False},
    }
    settings = {"questions": write(folder / "q.json", questions), "images": str(folder / "images")}
    return settings, ["Cat.", "no", "left"], 200 / 3


def textvqa(folder: Path):
    """Ten of ten say "5 cats"; two of ten say "stop", worth (2 x 1/3 + 8 x 2/3) / 10 = 0.6."""
    picture(folder / "images" / "a.jpg")
    rows = [
        {"question_id": 1, "image_id": "a", "question": "How many?", "answers": ["5 cats"] * 10},
        {
            "question_id": 2,
            "image_id": "a",
            "question": "What Sign?",
            "answers": ["stop"] * 2 + ["go"] * 8,
        },
    ]
    prompts = [
        {"question_id": "a", "image": "a.jpg", "text": "How many?\nReference OCR token: 5"},
        {"question_id": "a", "image": "a.jpg", "text": "what sign?\nReference OCR token: x"},
    ]
    settings = {
        "annotations": write(folder / "val.json", {"data": rows}),
        "prompts": write_lines(folder / "prompts.jsonl", prompts),
        "images": str(folder / "images"),
    }
    return settings, ["The five cats?", "Stop."], 100 * (1.0 + 0.6) / 2


def vqav2(folder: Path):
    """Four of ten say "2": 1; one of ten says "red": (0 + 9 x 1/3) / 10 = 0.3."""
    picture(folder / "images" / "COCO_val2014_000000000007.jpg")
    questions = [
        {"image_id": 7, "question": "How many?", "question_id": 70},
        {"image_id": 7, "question": "What color?", "question_id": 71},
    ]
    said = (["2"] * 4 + ["3"] * 6, ["red"] + ["blue"] * 9)
    answers = [
        {
            "question_id": 70 + n,
            "answer_type": ("number", "other")[n],
            "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(own)],
        }
        for n, own in enumerate(said)
    ]
    settings = {
        "questions": write(folder / "q.json", {"questions": questions}),
        "annotations": write(folder / "a.json", {"annotations": answers}),
        "images": str(folder / "images"),
    }
    return settings, ["Two.", "red"], 100 * (1 + 0.3) / 2


def mme(folder: Path):
    """Existence: 3 of 4 right, 1 of 2 pictures, 75 + 50; code: 1 of 2, none of 1, 50 + 0."""
    for category, images, texts in (
        ("existence", "images", "questions_answers_YN"),
        ("code_reasoning", ".", "."),
    ):
        for name in ("0001", "0002") if category == "existence" else ("0001",):
            picture(folder / category / images / f"{name}.png")
            file = folder / category / texts / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            ask = "Is it there? Please answer yes or no."
            file.write_text(f"{ask}\tYes\n{ask}\tNo\n")
    texts = ["Yes", "no it is not", "yes, sure", "Yes", "Yes", "I doubt that"]
    return {"root": str(folder)}, texts, (75 + 50) + (50 + 0)


def mmbench(folder: Path):
    """Right in all 2 rotations; wrong in one of 3: half of the questions."""
    image = base64.b64encode(content()).decode()
    rows = [
        {"index": "1", "question": "Which?", "hint": "nan", "A": "cat", "B": "dog", "C": "",
         "D": "", "answer": "B", "category": "animal", "image": image},
        {"index": "2", "question": "Where?", "hint": "Look.", "A": "up", "B": "down", "C": "left",
         "D": "", "answer": "A", "category": "place", "image": "1"},
    ]  # fmt: skip
    path = folder / "dev.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return {"questions": str(path)}, ["B", "A. dog", "A", "C", "A"], 50.0


def scienceqa(folder: Path):
    """Two of three pictures' questions right; a question without a picture is not asked."""
    row = {"question": "Which?", "choices": ["one", "two", "three"], "hint": "", "subject": "s"}
    problems = {
        "1": {**row, "answer": 1, "image": "image.png", "hint": "Look."},
        "2": {**row, "answer": 0, "image": "image.png"},
        "3": {**row, "answer": 2, "image": "image.png"},
        "4": {**row, "answer": 0, "image": None},
    }
    for number in "123":
        picture(folder / "images" / "test" / number / "image.png")
    write(folder / "problems.json", problems)
    write(folder / "pid_splits.json", {"test": ["1", "2", "3", "4"]})
    return {"root": str(folder)}, ["B. two", "The answer is A.", "A"], 200 / 3


def mm_vet(folder: Path):
    """By the rule: both things of two, and one of two alternatives' two: (1 + 0.5) / 2."""
    picture(folder / "images" / "v1_0.png")
    rows = {
        "v1_0": {"imagename": "v1_0.png", "question": "What?", "answer": "cat<AND>dog",
                 "capability": ["rec"]},
        "v1_1": {"imagename": "v1_0.png", "question": "Sum?", "answer": "12<AND>euro<OR>twelve x",
                 "capability": ["ocr", "math"]},
    }  # fmt: skip
    settings = {"questions": write(folder / "mm-vet.json", rows), "images": str(folder / "images")}
    return settings, ["A dog and a cat.", "It is 12."], 75.0


def ocrbench(folder: Path):
    """Two of four: case counts in formulas alone, and spaces do not."""
    picture(folder / "images" / "1.png")
    row = {"image_path": "1.png", "question": "Read it.", "type": "Regular Text"}
    formula = {**row, "dataset_name": "HME100k", "type": "Formula"}
    rows = [
        {**row, "dataset_name": "IIIT5K", "answers": ["CENTRE"]},
        {**row, "dataset_name": "IIIT5K", "answers": "north"},
        {**formula, "answers": ["x + Y"]},
        {**formula, "answers": ["x + Y"]},
    ]
    settings = {"questions": write(folder / "o.json", rows), "images": str(folder / "images")}
    return settings, ["the word is centre.", "south", "x+Y=1", "x+y=1"], 500.0


def mmstar(folder: Path):
    """Three of five places of a letter are known ones."""
    row = {"question": "Which? Options: A: a, B: b", "category": "logic"}
    image = {"bytes": content(), "path": None}
    rows = [{"index": n, **row, "answer": "B", "image": image} for n in range(5)]
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    texts = ["B", "(B) b", "The answer is B", "I say B", "A"]
    return {"questions": str(folder / "m.parquet")}, texts, 60.0


def chartqa(folder: Path):
    """People: 2 of 3, one of them within 5%; generated: 0 of 1. The mean of the halves."""
    picture(folder / "png" / "1.png")
    human = [
        {"imgname": "1.png", "query": "How many?", "label": "100"},
        {"imgname": "1.png", "query": "How many?", "label": "100"},
        {"imgname": "1.png", "query": "Which?", "label": "Red"},
    ]
    write(folder / "test_human.json", human)
    write(folder / "test_augmented.json", [{"imgname": "1.png", "query": "x?", "label": "5%"}])
    return {"root": str(folder)}, ["105", "106", "red", "5"], 100 * (2 / 3 + 0) / 2


def videomme(folder: Path):
    """Two of three; long videos are not asked about."""
    rows = [
        {"video_id": "001", "duration": duration, "domain": "d", "sub_category": "s",
         "videoID": f"v{n}", "question_id": f"001-{n}", "task_type": "t", "question": "Which?",
         "options": ["A. a", "B. b", "C. c", "D. d"], "answer": answer}
        for n, (duration, answer) in enumerate(
            [("short", "A"), ("short", "D"), ("medium", "C"), ("long", "A")])
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "q.parquet")
    for number in range(3):
        frames(folder / "videos" / f"v{number}")
    settings = {
        "questions": str(folder / "q.parquet"),
        "videos": str(folder / "videos"),
        "durations": ["short", "medium"],
    }
    return settings, ["The best answer is: A", "D. d", "no idea"], 200 / 3


def video_qa(folder: Path):
    """By the rule: the reference is a word of the first answer, not of the second."""
    questions = [
        {"video_name": "one", "question": "who?", "question_id": "q1"},
        {"video_name": "two", "question": "what?", "question_id": "q2"},
    ]
    answers = [{"question_id": "q1", "answer": "man"}, {"question_id": "q2", "answer": "cut"}]
    frames(folder / "videos" / "one")
    frames(folder / "videos" / "v_two")  # as ActivityNet names its files
    settings = {
        "questions": write(folder / "test_q.json", questions),
        "answers": write(folder / "test_a.json", answers),
        "videos": str(folder / "videos"),
    }
    return settings, ["A man.", "They cook."], 50.0


def demo(folder: Path):
    """One of two; the answers are those of the world."""
    return {"questions": 2, "kinds": ["background"]}, None, 50.0


BENCHMARKS = {
    "activitynet-qa": video_qa,
    "chartqa": chartqa,
    "demo": demo,
    "gqa": gqa,
    "mm-vet": mm_vet,
    "mmbench": mmbench,
    "mme": mme,
    "mmstar": mmstar,
    "msrvtt-qa": video_qa,
    "msvd-qa": video_qa,
    "ocrbench": ocrbench,
    "pope": pope,
    "scienceqa": scienceqa,
    "textvqa": textvqa,
    "videomme": videomme,
    "vqav2": vqav2,
}


def make_task(name: str, folder: Path, **differs):
    """Write the files of a task and make it: the task, answers to all questions, their score."""
    from twigkit.plugins.discovery import default_registry

    settings, texts, score = BENCHMARKS[name](folder)
    entry = default_registry().get("task", name)
    task = entry.make(entry.spec(**{**settings, **differs}))
    if texts is None:
        answers = [example.reference["answer"] for example in task.examples()]
        texts = [answers[0], "nothing"]
    return task, texts, score


def respond(task, texts):
    """Answer the questions of a task with given texts."""
    from twigkit.interfaces import Response

    return [Response(e, text) for e, text in zip(task.examples(), texts, strict=True)]


def score_of(task, texts, judge=None) -> float:
    """The score of given answers."""
    from twigkit.evaluation.score import totals_of

    return float(task.value(totals_of(task.outcomes(respond(task, texts), judge))))


def parts_of(task, texts, judge=None) -> dict[str, float]:
    """The further figures of given answers."""
    from twigkit.evaluation.score import totals_of

    return task.parts(totals_of(task.outcomes(respond(task, texts), judge)))
