"""ChartQA: relaxed accuracy of both halves."""

from tests.support.benchmark_files import make_task, parts_of, respond, score_of


def test_the_halves_count_alike(tmp_path):
    task, texts, _ = make_task("chartqa", tmp_path)
    parts = parts_of(task, texts)
    assert abs(parts["human"] - 200 / 3) < 1e-9
    assert parts["augmented"] == 0
    assert score_of(task, ["0", "0", "no", "5%"]) == 50
    assert len(respond(task, texts)) == 4
