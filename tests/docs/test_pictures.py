"""The pictures of the documentation are what the project's commands draw."""

import xml.dom.minidom

from PIL import Image

from docs.scripts.pictures import BARS, DOCS, IMAGES, QUESTION, bars, speeds
from twigkit.cli.main import main
from twigkit.demo.unseen import unseen


def test_the_bars_are_the_table_of_the_results():
    drawn = bars(speeds((DOCS / "results.md").read_text()))
    assert (IMAGES / "speed.svg").read_text() == drawn, "run `make pictures` and look at them"
    texts = [
        n.firstChild.data for n in xml.dom.minidom.parseString(drawn).getElementsByTagName("text")
    ]
    assert texts[0::2] == list(BARS.values())


def test_a_method_that_the_table_does_not_have_would_be_noticed():
    assert speeds("| SSD | 1.0 | 2.50x | - |\n") == {"SSD": 2.5}
    assert "2.50x" in bars({**dict.fromkeys(BARS, 1.0), "SSD": 2.5})


def test_the_kept_tokens_are_drawn_as_shown(tmp_path):
    scene, kept = tmp_path / "scene.png", tmp_path / "kept.png"
    (sample,) = unseen(1)
    sample.picture.save(scene)
    words = ["show", "kept", "--image", str(scene), "--prompt", QUESTION, "--pruner", "p-head"]
    assert main([*words, "--out", str(kept)]) == 0
    with Image.open(kept) as drawn, Image.open(IMAGES / "kept.png") as shown:
        assert drawn.size == shown.size
        assert drawn.tobytes() == shown.tobytes(), "run `make pictures` and look at them"
