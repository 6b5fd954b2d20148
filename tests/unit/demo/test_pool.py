"""The pool of drawn pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from twigkit.demo.pool import Pool, scene_of
from twigkit.demo.world import draw_with_owners


def test_the_pool_holds_what_is_drawn_and_is_drawn_once(tmp_path: Path) -> None:
    pool = Pool(tmp_path, 3)
    for seed in range(3):
        picture, owners = draw_with_owners(scene_of(seed))
        assert np.array_equal(pool.pictures[seed], picture)
        assert np.array_equal(pool.owners[seed], owners.reshape(-1))
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(files) == {"pictures-3.npy", "owners-3.npy"}, "no half files stay"
    Pool(tmp_path, 3)
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
