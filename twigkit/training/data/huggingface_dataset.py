"""Hugging Face datasets as a source; the package is an extra."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from twigkit.errors import InputError
from twigkit.training.data.record_formats import length_of
from twigkit.training.spec import DataSpec


class HubDataset:
    """A split of a Hugging Face dataset."""

    def __init__(self, path: str, data: DataSpec) -> None:
        """Load the split."""
        try:
            import datasets
        except ImportError:
            raise InputError(
                "the source 'datasets' needs the package datasets, which is not installed; "
                "install it with `pip install 'twigkit[datasets]'`"
            ) from None
        try:
            if Path(path).is_dir() and (Path(path) / "state.json").exists():
                self.rows: Any = datasets.load_from_disk(path)
            else:
                self.rows = datasets.load_dataset(path, data.subset, split=data.split)
        # The library raises errors of many kinds, its own and those of the formats that it reads.
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"the dataset {path}, split {data.split!r}, cannot be loaded: {lines[0]}; check "
                "path, subset and split of the data"
            ) from error
        # Pictures are opened later, as all others are; the library lets Pillow guess the format.
        for name, feature in self.rows.features.items():
            self.rows = self.rows.cast_column(name, _undecoded(feature))
        if not {"conversations", "messages", "texts", "question"} & set(self.rows.column_names):
            raise InputError(
                f"the dataset {path} has the columns {', '.join(self.rows.column_names)}; expected "
                "conversations, messages, texts, or question with answer; rename its columns or "
                "name a factory as the source"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        # A missing picture is no picture; a column of both is usual in mixed datasets.
        return {name: _without_none(value) for name, value in row.items() if value is not None}

    def lengths(self) -> np.ndarray[Any, Any]:
        """Estimate lengths from the conversations, without decoding pictures."""
        return np.fromiter(map(length_of, self._texts()), np.int64, len(self))

    def digest(self) -> str:
        """Return what stands for the conversations, their order included."""
        digest = hashlib.sha256()
        for text in self._texts():
            digest.update(text + b"\n")
        return digest.hexdigest()[:16]

    def _texts(self) -> Iterator[bytes]:
        """Give the conversations as JSON."""
        texts = [c for c in ("conversations", "messages", "texts", "question", "answer")
                 if c in self.rows.column_names]  # fmt: skip
        for row in self.rows.select_columns(texts):
            yield json.dumps(row, default=str).encode()


def _undecoded(feature: Any) -> Any:
    """Give the type of a column with pictures left as bytes or paths."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(mode=feature.mode, decode=False)
    if isinstance(feature, dict):
        return {name: _undecoded(held) for name, held in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(held) for held in feature]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return dataclasses.replace(feature, feature=_undecoded(feature.feature))
    return feature


def _without_none(value: Any) -> Any:
    """Drop the fields of parts of a message that arrow fills in for others."""
    if isinstance(value, Mapping):
        return {name: _without_none(held) for name, held in value.items() if held is not None}
    if isinstance(value, list):
        return [_without_none(held) for held in value]
    return value
