"""``show decoding``: who wrote which token."""

from PIL import Image

from tests.support.checkpoints import write_folders
from twigkit.cli.main import main


def test_an_answer_is_coloured_by_who_wrote_it(tmp_path, capsys):
    folders = write_folders(tmp_path)
    file = tmp_path / "decoding.png"
    words = ["show", "decoding", *folders.model, "--image", str(folders.picture)]
    words += ["--prompt", "what ?", "--max-new-tokens", "8", "--out", str(file)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "tokens drafted, in" in told
    with Image.open(file) as picture:
        assert picture.width == 900
    assert main([*words, "--budget", "-1"]) == 2
