"""A tiny language model for the recipe."""

import pytest
from transformers import AutoTokenizer

from tests.support.chat_base import write_chat_base
from twigkit import TwigModel


@pytest.fixture(scope="session")
def chat_base(tmp_path_factory):
    return write_chat_base(tmp_path_factory.mktemp("chat") / "base")


@pytest.fixture(scope="session")
def chat_tokenizer(chat_base):
    return AutoTokenizer.from_pretrained(chat_base)


@pytest.fixture
def chat_model(chat_base):
    return TwigModel.from_pretrained(chat_base)
