"""Which kernel computes attention: what was asked for, what is there, and why one cannot serve."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from twigkit.errors import CapabilityError

Attention = Literal["auto", "sdpa", "flash", "flex", "eager"]
"""What may be asked for."""

SDPA = "sdpa"
"""The kernel that serves everything: torch's scaled-dot-product attention."""

_HALF = (torch.float16, torch.bfloat16)

_WIDEST = 256
"""Widest head that flash-attn takes."""

_FUNCTIONS = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
"""What is called of flash-attn."""

_OLDEST = (8, 0)
"""Compute capability from which on flash-attn serves GPUs of NVIDIA: Ampere's."""

logger = logging.getLogger(__name__)


def choose_kernel(wanted: Attention, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Decide which kernel computes attention.

    Args:
        wanted: What was asked for; ``"auto"`` takes flash-attn where it is installed and serves,
            and torch's own kernels elsewhere.
        device: Where the layers are.
        dtype: Precision of the states.
        width: Width of a head.

    Returns:
        ``"sdpa"``, ``"flash"``, ``"flex"`` or ``"eager"``.

    Raises:
        CapabilityError: If flash-attn was asked for and cannot serve; says why.
    """
    if wanted in ("auto", "flash"):
        reason = flash_obstacle(device, dtype, width)
        if reason is None:
            return "flash"
        if wanted == "auto":
            return SDPA
        raise CapabilityError(
            f"attention 'flash' cannot serve here: {reason}. Choose 'auto' or 'sdpa', whose flash "
            "kernels are torch's own"
        )
    return str(wanted)


def flash_obstacle(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """Say why flash-attn cannot serve, ``None`` if it can.

    Args:
        device: Where the layers are.
        dtype: Precision of the states.
        width: Width of a head.
    """
    if device.type != "cuda":
        return f"it runs on CUDA devices, and the base is on {device}"
    if dtype not in _HALF:
        return f"it computes in float16 and bfloat16, and the base in {dtype}"
    if width > _WIDEST or width % 8:
        return f"its heads are a multiple of 8 and at most {_WIDEST} wide, and the base's {width}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        return f"it serves GPUs from Ampere on, and {device} is older"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed (pip install 'twigkit[flash-attn]')"
    return _package_obstacle()


@functools.cache
def _package_obstacle() -> str | None:
    """Say why the package that is installed cannot serve, in the log too; ``None`` if it can."""
    try:
        package = importlib.import_module("flash_attn")
    except Exception as error:  # a build for another torch ends in many ways
        cause = " ".join(str(error).split())
        reason = (
            f"the package flash-attn is installed and cannot be imported ({type(error).__name__}: "
            f"{cause}); build it for torch {torch.__version__}"
        )
    else:
        lacking = [name for name in _FUNCTIONS if not hasattr(package, name)]
        if not lacking:
            return None
        reason = (
            f"the installed package flash_attn has no {lacking[0]}; what is needed is flash-attn 2 "
            "(pip install 'twigkit[flash-attn]')"
        )
    logger.warning("flash-attn is not used: %s", reason)
    return reason


def flash_function(name: str) -> Callable[..., Any]:
    """Return a function of flash-attn."""
    function: Callable[..., Any] = getattr(importlib.import_module("flash_attn"), name)
    return function


@functools.cache
def flex_function(compiled: bool) -> Callable[..., Any]:
    """Return torch's flex attention, compiled where that pays."""
    from torch.nn.attention.flex_attention import flex_attention

    plain: Any = flex_attention
    chosen: Any = torch.compile(plain, dynamic=True) if compiled else plain
    function: Callable[..., Any] = chosen
    return function


def kernels_for(device: torch.device) -> AbstractContextManager[Any]:
    """Keep torch from kernels that make a plan for every new shape, as cuDNN's do.

    Lengths of a pruned prompt are new in every layer range, and a plan takes longer than the
    prompt; on a device without such kernels nothing changes.

    Args:
        device: Where the layers are.
    """
    if device.type != "cuda":
        return nullcontext()
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    held: AbstractContextManager[Any] = sdpa_kernel(backends)
    return held


__all__ = [
    "SDPA",
    "Attention",
    "choose_kernel",
    "flash_function",
    "flash_obstacle",
    "flex_function",
    "kernels_for",
]
