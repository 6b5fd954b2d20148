"""What becomes of every argument of transformers' ``generate``: honoured, without effect, refused.

No argument is swallowed. :data:`FIELDS` holds every field of ``GenerationConfig`` and
:data:`ARGUMENTS` everything else that transformers' ``generate`` and models' ``forward`` take; a
test compares both with the installed transformers, so that a new field cannot slip through.

``docs/generate.md`` is made from the tables: ``python -m twigkit.generation.arguments``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from twigkit.errors import CapabilityError, InputError


@dataclass(frozen=True)
class Treatment:
    """What becomes of an argument.

    Attributes:
        kind: ``honoured``: as in transformers; ``no effect``: it changes nothing here, nor does it
            in transformers in the cases that are left; ``refused``: any other value than the
            neutral ones is an error.
        about: What it does, why it has no effect, or why it is refused.
        way: What to do instead, if it is refused.
        neutral: Values besides ``None`` that ask for nothing.
        lenient: Whether a value from the base's own generation config is passed over, because it
            says how the base computes and not which tokens it gives.
    """

    kind: Literal["honoured", "no effect", "refused"]
    about: str
    way: str = "leave it out"
    neutral: tuple[Any, ...] = ()
    lenient: bool = False

    def asks(self, value: object) -> bool:
        """Whether a value asks for what is refused."""
        if self.kind != "refused" or value is None:
            return False
        return not any(type(value) is type(each) and value == each for each in self.neutral)


def _honoured(about: str) -> Treatment:
    return Treatment("honoured", about)


def _ineffective(about: str) -> Treatment:
    return Treatment("no effect", about)


def _refused(
    about: str, way: str = "leave it out", *neutral: Any, lenient: bool = False
) -> Treatment:
    return Treatment("refused", about, way, neutral, lenient)


_BEAMS = "beams are several texts per row, and drafts continue one"
_ONLY_BEAMS = "read by beam search only"
_ONLY_ASSISTED = "read by assisted generation only, in whose place drafters stand"
_PICK = "pick a drafter with drafter=..."
_OWN_CACHE = "twigkit keeps keys and values in its own cache, which holds no more than it needs"
_ENCODER = "read by models with an encoder only"
_WARPER = "applied where tokens are drawn"

FIELDS: dict[str, Treatment] = {
    # length
    "max_length": _honoured("most tokens of prompt and answer together"),
    "max_new_tokens": _honoured("most tokens of the answer; goes before `max_length`"),
    "min_length": _honoured("no end token before this many tokens, prompt included"),
    "min_new_tokens": _honoured(
        "no end token before this many tokens of the answer; goes before `min_length`"
    ),
    "max_time": _honoured("seconds after which every answer ends"),
    "stop_strings": _honoured("strings that end an answer; needs `tokenizer`"),
    "early_stopping": _ineffective(_ONLY_BEAMS),
    # strategy
    "do_sample": _honoured("draw tokens instead of taking the most likely ones"),
    "num_beams": _refused(_BEAMS, "pass num_beams=1", 1),
    "num_beam_groups": _refused(_BEAMS, "leave it out", 1),
    "use_cache": _refused(
        f"{_OWN_CACHE}; without any, nothing could be drafted", "leave it out", True, lenient=True
    ),
    # cache
    "cache_implementation": _refused(
        f"{_OWN_CACHE}, neither quantised nor offloaded",
        "leave it out, or use the base's own generate",
        "dynamic",
        "static",
        "hybrid",
        "hybrid_chunked",
        "sliding_window",
    ),
    "cache_config": _refused(_OWN_CACHE, "leave it out", lenient=True),
    "max_cache_len": _refused(
        f"{_OWN_CACHE}", "leave it out; max_new_tokens bounds the cache", lenient=True
    ),
    "prefill_chunk_size": _refused(
        "the prompt runs in one piece, since pruning scores all of it", lenient=True
    ),
    "compile_config": _refused(
        "twigkit compiles a step of its own", "use TwigModel.compile()", lenient=True
    ),
    "disable_compile": _ineffective("twigkit compiles only where TwigModel.compile() was called"),
    "continuous_batching_config": _refused("answers of a call begin together", lenient=True),
    "low_memory": _ineffective(_ONLY_BEAMS),
    # logits
    "temperature": _honoured(_WARPER),
    "top_k": _honoured(_WARPER),
    "top_p": _honoured(_WARPER),
    "min_p": _honoured(_WARPER),
    "top_h": _honoured(_WARPER),
    "typical_p": _honoured(_WARPER),
    "epsilon_cutoff": _honoured(_WARPER),
    "eta_cutoff": _honoured(_WARPER),
    "repetition_penalty": _honoured("tokens of prompt and answer become less likely"),
    "encoder_repetition_penalty": _honoured("tokens that the prompt lacks become less likely"),
    "no_repeat_ngram_size": _honoured("no n-gram comes twice"),
    "encoder_no_repeat_ngram_size": _honoured("no n-gram of the prompt comes again"),
    "bad_words_ids": _honoured("words that never come"),
    "sequence_bias": _honoured("added to the scores of words"),
    "renormalize_logits": _honoured("scores become log-probabilities after all processing"),
    "forced_bos_token_id": _honoured("first token, if the prompt has one token"),
    "forced_eos_token_id": _honoured("last token of an answer of full length"),
    "remove_invalid_values": _honoured("NaN and infinite scores are replaced"),
    "exponential_decay_length_penalty": _honoured("the end token becomes more likely with time"),
    "suppress_tokens": _honoured("tokens that never come"),
    "begin_suppress_tokens": _honoured("tokens that never come first"),
    "guidance_scale": _honoured(
        "classifier-free guidance by text, through transformers' own processor; decoding is plain"
    ),
    "watermarking_config": _honoured("through transformers' own processor; decoding is plain"),
    "length_penalty": _ineffective(_ONLY_BEAMS),
    "diversity_penalty": _ineffective(_ONLY_BEAMS),
    "constraints": _refused(f"constraints steer beams, and {_BEAMS}"),
    "force_words_ids": _refused(
        f"constraints steer beams, and {_BEAMS}", "leave it out; sequence_bias favours words"
    ),
    "token_healing": _refused("it rewrites the end of the prompt", "leave it out", False),
    "penalty_alpha": _refused(
        "it compares hidden states of several candidates", "leave it out", 0.0, 0
    ),
    "dola_layers": _refused("it reads the logits of other layers"),
    # output
    "num_return_sequences": _honoured("several answers per prompt, where tokens are drawn"),
    "output_scores": _honoured("processed scores of the emitted tokens, with a dictionary"),
    "output_logits": _honoured("unprocessed logits of the emitted tokens, with a dictionary"),
    "output_attentions": _refused(
        "the fused layers never hold attention weights", "use the base's own forward", False
    ),
    "output_hidden_states": _refused(
        "states of rejected drafts would be among them", "use the base's own forward", False
    ),
    "return_dict_in_generate": _honoured(
        "return a `TwigOutput`, which is a `GenerateDecoderOnlyOutput`, instead of a tensor; its "
        "`past_key_values`, which is `cache` since transformers 5.24, is `None`"
    ),
    # special tokens
    "bos_token_id": _ineffective("starts an empty prompt, and twigkit needs one"),
    "eos_token_id": _honoured("ids that end an answer: a number, list, array or tensor"),
    "pad_token_id": _honoured("fills answers that ended early, and tells padding in prompts"),
    "decoder_start_token_id": _ineffective(_ENCODER),
    # assisted generation
    "is_assistant": _refused("a twig drafts inside of its own model", _PICK, False),
    "assistant_early_exit": _refused("the twig is the early exit", 'pass drafter="ssd"'),
    "use_mtp": _refused("drafts come from the twig", _PICK, False),
    "speculation_type": _refused("drafts come from the twig", _PICK),
    "prompt_lookup_num_tokens": _refused(
        "drafting is the drafter's", 'pass drafter="prompt-lookup"'
    ),
    "max_matching_ngram_size": _ineffective(_ONLY_ASSISTED),
    "num_assistant_tokens": _ineffective(_ONLY_ASSISTED),
    "num_assistant_tokens_schedule": _ineffective(_ONLY_ASSISTED),
    "assistant_confidence_threshold": _ineffective(_ONLY_ASSISTED),
    "assistant_ensemble_weight": _ineffective(_ONLY_ASSISTED),
    "assistant_lookbehind": _ineffective(_ONLY_ASSISTED),
    "target_lookbehind": _ineffective(_ONLY_ASSISTED),
    # bookkeeping
    "transformers_version": _ineffective("says who wrote the file"),
    "_from_model_config": _ineffective("says where the settings came from"),
}
"""What becomes of every field of transformers' ``GenerationConfig``."""

_FILLED_CACHE = _refused(
    "pruning and drafting need keys and values that a cache from elsewhere does not hold",
    "give the whole prompt",
)

ARGUMENTS: dict[str, Treatment] = {
    "inputs": _honoured("the prompt's ids, also as the first positional argument"),
    "input_ids": _honoured("the prompt's ids, `[batch, tokens]`"),
    "inputs_embeds": _honoured(
        "embeddings of the prompt; without `input_ids` the answer alone is returned, nothing is "
        "pruned, and what looks at the prompt's ids is refused"
    ),
    "attention_mask": _honoured(
        "which tokens are no padding, `[batch, tokens]`; inferred from `pad_token_id` as in "
        "transformers. Padding may be anywhere; transformers goes on from padding on the right, "
        "twigkit from the last token, with a warning"
    ),
    "generation_config": _honoured(
        "settings, also as the second positional argument; what it leaves open is the base's"
    ),
    "use_model_defaults": _honoured("`False` leaves out the base's own generation config"),
    "logits_processor": _honoured("those not known to read one row alone make decoding plain"),
    "stopping_criteria": _honoured(
        "those not known to read one row alone make decoding plain, as those that may read scores "
        "do with `output_scores`. A row of a batch that a criterion has ended is padded; "
        "transformers goes on with it where there is no `eos_token_id`"
    ),
    "prefix_allowed_tokens_fn": _honoured("allowed tokens by row and text; decoding is plain"),
    "streamer": _honoured("one, or for a batch a list with one per row, which ends with its row"),
    "tokenizer": _honoured("for `stop_strings`"),
    "negative_prompt_ids": _honoured("for `guidance_scale`"),
    "negative_prompt_attention_mask": _honoured("for `guidance_scale`"),
    "synced_gpus": _refused(
        "ranks would have to take equally many steps, and drafts are accepted as they come",
        "leave it out",
        False,
    ),
    "assistant_model": _refused("drafts come from the twig", _PICK),
    "assistant_tokenizer": _refused("drafts come from the twig", _PICK),
    "custom_generate": _refused(
        "twigkit runs a decoding loop of its own",
        "leave it out; the base's own generate takes twigkit's loop, see `twigkit.CustomGenerate`",
    ),
    "trust_remote_code": _refused("twigkit runs no code of a checkpoint", "leave it out", False),
    "past_key_values": _FILLED_CACHE,
    "cache": _FILLED_CACHE,
    "position_ids": _refused(
        "positions follow from attention_mask and pictures; beside `mm_encoder_outputs`, which say "
        "less than pictures, they are taken",
        "leave it out, and set the mask",
    ),
    "cache_position": _refused("a call begins with its prompt"),
    "mm_encoder_outputs": _honoured("encoded pictures and videos, in place of pixels"),
    "labels": _refused(
        "nothing is trained here; labels of -100 alone, as some processors add them, are dropped",
        "leave it out; `twigkit train` trains twigs",
    ),
    "logits_to_keep": _refused("the verifier decides whose logits it needs"),
    "return_dict": _refused(
        "it shapes the output of forward", "pass return_dict_in_generate=True", True
    ),
}
"""What becomes of the other arguments of transformers' ``generate`` and of models' ``forward``."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a call that cannot be honoured.

    Raises:
        CapabilityError: Naming the argument, the reason and the way out.
    """
    for name, value in arguments.items():
        if name == "position_ids" and arguments.get("mm_encoder_outputs") is not None:
            continue  # the grids that they follow from are gone
        if name == "labels" and hasattr(value, "eq") and bool(value.eq(-100).all()):
            continue  # some processors add them to a prompt without an answer
        treatment = ARGUMENTS.get(name)
        if treatment is not None and treatment.asks(value):
            raise CapabilityError(f"{name} cannot be taken: {treatment.about}; {treatment.way}")


def check_fields(config: Any, called: Collection[str], own: Collection[str]) -> None:
    """Refuse generation settings that cannot be honoured.

    Args:
        config: The merged generation config.
        called: Names that the call gave as arguments.
        own: Names that a ``generation_config`` given with the call sets.

    Raises:
        CapabilityError: Naming the setting, where it came from, the reason and the way out.
    """
    for name, treatment in FIELDS.items():
        value = getattr(config, name, None)
        if not treatment.asks(value):
            continue
        source = "comes from the base's generation config"
        way = f"pass {name}={treatment.neutral[0]!r}" if treatment.neutral else treatment.way
        if name in called:
            source, way = "was given", treatment.way
        elif name in own:
            source, way = "comes from the generation_config that was given", treatment.way
        elif treatment.lenient:
            continue
        raise CapabilityError(f"{name}={value!r} {source}, but {treatment.about}; {way}")


def whole_numbers(name: str, value: Any) -> tuple[int, ...] | None:
    """Read whole numbers from a number, a list, an array or a tensor of any shape.

    Args:
        name: Name of the setting, for the message.
        value: What was given.

    Returns:
        The numbers in the order given; ``None`` for ``None``.

    Raises:
        InputError: If something is no whole number.

    Example:
        >>> whole_numbers("eos_token_id", [[2], 7])
        (2, 7)
    """
    if value is None:
        return None
    plain = value.tolist() if hasattr(value, "tolist") else value
    flat: list[Any] = []
    todo = [plain]
    while todo:
        item = todo.pop(0)
        if isinstance(item, list | tuple | set | frozenset):
            todo = [*item, *todo]
        else:
            flat.append(item.item() if hasattr(item, "item") else item)
    whole = (isinstance(item, int) and not isinstance(item, bool) for item in flat)
    if not all(whole) or not all(-(2**63) <= item < 2**63 for item in flat):
        raise InputError(f"{name} is {value!r}; expected a whole number, or several")
    return tuple(flat)


def document() -> str:
    """Return the page about all arguments, as Markdown."""
    lines = [
        "# Arguments of `generate`",
        "",
        "`TwigModel.generate` takes what `generate` of transformers takes, and gives its tokens. "
        "No argument is swallowed: it is honoured, or has no effect in transformers either where "
        "twigkit can be used, or is refused with the reason and the way out. The tables are made "
        "from the code by `python -m twigkit.generation.arguments` and compared with the installed "
        "transformers by a test.",
        "",
        "twigkit's own arguments (`budget`, `pruner`, `drafter`, `wipe_layer`, `draft_cache`, "
        "`bucketed`, `generator`, `seed`) are described at `TwigModel.generate`.",
        "",
        "## Arguments",
        "",
        *_table(ARGUMENTS),
        "",
        "Everything else goes to the base as its processor's outputs: pictures, videos and what "
        "belongs to them. A name that the base does not know is an error.",
        "",
        "## Fields of `GenerationConfig`",
        "",
        *_table(FIELDS),
    ]
    return "\n".join(lines) + "\n"


def _table(treatments: Mapping[str, Treatment]) -> list[str]:
    """Rows of a table."""
    rows = ["| argument | | |", "|---|---|---|"]
    for name, treatment in treatments.items():
        about = treatment.about
        if treatment.kind == "refused":
            taken = ", ".join(f"`{value!r}`" for value in treatment.neutral)
            about += f": {treatment.way}" + (f" (taken: {taken})" if taken else "")
            if treatment.lenient:
                about += "; in the base's own generation config it is passed over"
        rows.append(f"| `{name}` | {treatment.kind} | {about} |")
    return rows


__all__ = [
    "ARGUMENTS",
    "FIELDS",
    "Treatment",
    "check_arguments",
    "check_fields",
    "document",
    "whole_numbers",
]

if __name__ == "__main__":
    print(document(), end="")
