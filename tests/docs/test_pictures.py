"""The pictures of the documentation are what the project's commands draw."""

import xml.dom.minidom

from PIL import Image

from docs.scripts.pictures import BARS, IMAGES, QUESTION, bars
from twigkit.cli.main import main
from twigkit.demo.unseen import unseen


def test_every_bar_has_its_length_and_label():
    drawn = bars({**dict.fromkeys(BARS, 1.0), "SSD": 2.5})
    texts = xml.dom.minidom.parseString(drawn).getElementsByTagName("text")
    assert [node.firstChild.data for node in texts][0::2] == list(BARS.values())
    assert drawn.count("2.50x") == 1


def test_the_kept_tokens_are_drawn_as_shown(tmp_path):
    scene, kept = tmp_path / "scene.png", tmp_path / "kept.png"
    (sample,) = unseen(1)
    sample.picture.save(scene)
    words = [
        "show",
        "pruning",
        "--only",
        "kept",
        "--image",
        str(scene),
        "--prompt",
        QUESTION,
        "--pruners",
        "p-head",
    ]
    assert main([*words, "--out", str(kept)]) == 0
    with Image.open(kept) as drawn, Image.open(IMAGES / "kept.png") as shown:
        assert drawn.size == shown.size
        assert drawn.tobytes() == shown.tobytes(), "run `make pictures` and look at them"
