"""No dead code: what nothing in core and plug-ins uses is named here with a reason, or goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from vulture import Vulture

ROOT = Path(__file__).parents[2]
FOLDERS = ("twigkit", "adapters", "heads", "strategies", "tasks")

CALLED_BY_OTHERS = ["@hookimpl", "@model_validator*", "@field_validator*", "@*.register*"]
"""Decorators of what pluggy and pydantic call."""

EXCEPTIONS = {
    "generate_until": "lmms-eval calls it",
    "generate_until_multi_round": "lmms-eval calls it",
    "loglikelihood": "lmms-eval calls it",
    "is_simple": "lmms-eval reads it",
    "chat_inner": "VLMEvalKit looks for it",
    "generate_inner": "VLMEvalKit calls it",
    "__signature__": "transformers reads the arguments of a callable from it",
    "get_conv_state": "recurrent layers of transformers call it",
    "get_recurrent_state": "recurrent layers of transformers call it",
    "is_recording_past": "recurrent layers of transformers call it",
    "from_spec": "for users from Python; commands read a run's file as defaults of their options",
    "push_to_hub": "for users from Python, as in transformers",
    "relative_speed": "the template of the model card reads it",
    "showwarning": "the module warnings calls it, as its documentation says",
    "__dir__": "Python calls it for dir(twigkit)",
    "__pydantic_base_init__": "pydantic reads it",
    "prediction": "a loss weight, read by its name",
    "medusa": "a loss weight, read by its name",
    "model_config": "pydantic reads it",
    "bos_token_id": "transformers reads it from tokenizers",
    "padding_side": "transformers reads it from tokenizers",
    "normalizer": "the tokenizers library reads it",
    "pre_tokenizer": "the tokenizers library reads it",
    "post_processor": "the tokenizers library reads it",
    "decoder": "the tokenizers library reads it",
    "local_address": "httpcore passes it to whoever connects",
    "socket_options": "httpcore passes it to whoever connects",
    "include_obfuscation": "clients of OpenAI's API may send it",
    "_compile_all_devices": "transformers reads it from a CompileConfig",
    "recompile_limit": "torch.compile reads it",
    "draft_kv_bytes_allocated": "a figure for users of the statistics",
    "history": "what a training run returns to users from Python",
    "_old_forward": "accelerate's hooks call it in place of the forward that they replaced",
    "UNK": "a token of the built-in model, in the order of its ids",
}
"""Names that look unused, and who uses them."""


def unused(paths: list[Path]) -> dict[str, str]:
    """Names that nothing in some files uses, with the places where they are defined."""
    vulture = Vulture(ignore_decorators=CALLED_BY_OTHERS)
    vulture.scavenge([str(path) for path in paths])
    return {
        item.name: f"{item.filename}:{item.first_lineno}"
        for item in vulture.get_unused_code(min_confidence=60)
    }


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """What looks unused in the core and the plug-in folders; symbolic links count once."""
    files = (path.resolve() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return unused(sorted(set(files)))


def test_everything_is_used(found):
    assert {name: place for name, place in found.items() if name not in EXCEPTIONS} == {}


def test_every_exception_is_needed(found):
    assert set(EXCEPTIONS) <= set(found), "take out the exceptions that are used again"


def test_what_is_never_called_is_found(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        "@model_validator(mode='after')\ndef validated(): pass\n"
        "def called(): pass\ndef never_called(): pass\ncalled()\n"
    )
    assert unused([source]) == {"never_called": f"{source}:4"}
