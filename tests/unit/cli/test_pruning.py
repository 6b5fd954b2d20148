"""``show pruning``: pruners side by side, the frames of a video, and bare pictures."""

from PIL import Image

from tests.support.checkpoints import write_folders
from twigkit.cli.main import main


def test_what_pruners_keep_is_drawn_side_by_side(tmp_path, capsys):
    folders = write_folders(tmp_path)
    words = ["show", "pruning", *folders.model, "--image", str(folders.picture)]
    words += ["--prompt", "what ?", "--budget", "0.5"]
    sizes = {}
    for name, more in (("two", ["--pruners", "ttp, divprune"]), ("all", [])):
        file = tmp_path / f"{name}.png"
        assert main([*words, *more, "--out", str(file)]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == str(file)
        with Image.open(file) as picture:
            sizes[name] = (len(told) - 1, picture.size)
    assert sizes["two"][0] == 2
    assert sizes["all"][0] >= 11  # all but none, and p-head if the twig has no pruning head
    assert sizes["all"][1][1] > 2 * sizes["two"][1][1]
    assert main([*words, "--pruners", "nonsense"]) == 2
    assert "unknown pruner 'nonsense'" in capsys.readouterr().err


def test_the_bare_picture_of_one_pruner(tmp_path, capsys):
    folders = write_folders(tmp_path)
    words = ["show", "pruning", *folders.model, "--image", str(folders.picture)]
    words += ["--prompt", "what ?", "--budget", "0.5"]
    drawn = set()
    for only in ("kept", "scores"):
        file = tmp_path / f"{only}.png"
        assert main([*words, "--pruners", "ttp", "--only", only, "--out", str(file)]) == 0
        with Image.open(file) as picture:
            drawn.add(picture.tobytes())
            assert picture.size == (4 * 24, 4 * 24)
    assert len(drawn) == 2
    assert main([*words, "--pruners", "ttp,fastv", "--only", "kept"]) == 2
    assert "--only draws one pruner" in capsys.readouterr().err
