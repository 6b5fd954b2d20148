"""``twigkit serve``: answer over HTTP, in the format of OpenAI's API."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, load_model, processor_of
from twigkit.cli.run_file import add_run_argument
from twigkit.errors import CapabilityError, InputError
from twigkit.io.files import read_regular

if TYPE_CHECKING:
    from twigkit.server.settings import ServerSpec

_LIMITS = (
    ("max-num-seqs", int, "answers that are generated at the same time (16)"),
    ("max-queue", int, "answers that wait for a slot; more get 429 (64)"),
    ("max-model-len", int, "most tokens of prompt and answer (the base's context)"),
    ("max-tokens", int, "most tokens of an answer (4096)"),
    ("max-image-bytes", int, "most bytes of a picture (16 MiB)"),
    ("max-image-pixels", int, "most pixels of a picture (2**25)"),
    ("max-body-bytes", int, "most bytes of a request (64 MiB)"),
    ("fetch-timeout", float, "most seconds to fetch a picture (10)"),
    ("request-timeout", float, "most seconds of a request (300)"),
)
"""Options that are limits: name, type and help."""

_FIELDS = {
    "served_model_name": "model_name",
    "max_image_bytes": "most_image_bytes",
    "max_image_pixels": "most_pixels",
    "max_body_bytes": "most_body_bytes",
    "fetch_timeout": "fetch_seconds",
    "request_timeout": "request_seconds",
}
"""Fields of the settings whose options are called otherwise."""

_KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than clients reuse one."""

_BACKLOG = 2048
"""Connections that may wait to be accepted."""

_LONGEST_KEY = 4096
"""Most bytes of a file with an API key."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    add_run_argument(parser)
    add_model_arguments(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    group.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for any (8000)")
    group.add_argument("--api-key", metavar="KEY", help="what clients must send as bearer token")
    group.add_argument("--api-key-file", metavar="FILE", help="the same, read from a file")
    group.add_argument(
        "--served-model-name", metavar="NAME", help="name of the model (default: that of the base)"
    )
    group.add_argument(
        "--allowed-media-domains",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts from which https URLs of pictures are fetched (none)",
    )
    group.add_argument(
        "--limit-mm-per-prompt",
        metavar="LIMITS",
        help="most pictures and videos of a request, such as image=8,video=1",
    )
    group.add_argument(
        "--shutdown-timeout",
        type=int,
        default=60,
        metavar="N",
        help="most seconds that running requests have to finish once the server is told to stop "
        "(60)",
    )
    for name, kind, told in _LIMITS:
        group.add_argument(f"--{name}", type=kind, metavar="N", help=told)
    group = parser.add_argument_group("defaults of requests")
    group.add_argument(
        "--budget",
        type=count_or_fraction,
        metavar="R",
        help="average visual tokens per layer, a count or a fraction; without it nothing is pruned",
    )
    group.add_argument("--pruner", metavar="NAME", help="(ttp)")
    group.add_argument("--drafter", metavar="NAME", help="(ssd with a twig, plain without)")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        TwigkitError: If a setting or checkpoint cannot be used, or the port is taken.
    """
    try:
        import uvicorn

        from twigkit.server.app import create_app
    except ImportError as error:
        raise CapabilityError(
            f"the server needs a package that is not there ({error.name}); install twigkit[serve]"
        ) from error
    from twigkit.server.listener import accept, allow_connections, listen

    given = _given(args)
    allow_connections()
    listener = listen(args.host, args.port)
    try:
        model = load_model(args)
        spec = _spec(given, args, drafts=model.twig is not None)
        app = create_app(model, processor_of(args, model, pictures=False), spec)
        host, port = listener.getsockname()[:2]
        place = f"[{host}]" if ":" in host else host
        accept(listener, _BACKLOG)  # or whoever reads the line and connects at once is refused
        print(f"serving {spec.model_name} at http://{place}:{port}", flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=args.shutdown_timeout,
            timeout_keep_alive=_KEEP_ALIVE,
            backlog=_BACKLOG,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the settings that were given, checked before a model is loaded."""
    from twigkit.server.settings import ServerSpec

    names = ["served_model_name", "api_key", "budget", "pruner", "drafter"]
    names += [name.replace("-", "_") for name, _, _ in _LIMITS]
    given = _defaults(args)
    given |= {_FIELDS.get(n, n): getattr(args, n) for n in names if getattr(args, n) is not None}
    given["allowed_media_domains"] = tuple(args.allowed_media_domains)
    given |= _media_limits(args.limit_mm_per_prompt)
    if args.api_key_file is not None:
        if args.api_key is not None:
            raise InputError("--api-key and --api-key-file exclude each other; give one")
        given["api_key"] = _key(args.api_key_file)
    ServerSpec(**given)
    return given


def _defaults(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the generation of a run says of all requests."""
    from twigkit.specs.run import GenerationSpec

    known = {"budget": "budget", "pruner": "pruner", "drafter": "drafter"}
    known["max_new_tokens"] = "max_tokens"
    usual = GenerationSpec()
    for name, value in args.run_generation.items():
        if name not in known and value != getattr(usual, name):
            raise InputError(
                f"{args.run_file}: generation.{name} is no setting of a server; of the generation "
                f"it takes {', '.join(known)}; leave the others out"
            )
    return {known[n]: value for n, value in args.run_generation.items() if n in known}


def _spec(given: dict[str, Any], args: argparse.Namespace, *, drafts: bool) -> ServerSpec:
    """Complete the settings by what depends on the model."""
    from twigkit.server.settings import ServerSpec

    name = str(args.base).rstrip("/").rsplit("/", 1)[-1] or "twigkit"
    return ServerSpec(**{"model_name": name, "drafter": "ssd" if drafts else "plain", **given})


def _media_limits(text: str | None) -> dict[str, int]:
    """Read limits such as ``image=8,video=1``."""
    limits: dict[str, int] = {}
    for part in (text or "").split(","):
        if not part:
            continue
        name, _, number = part.partition("=")
        field = {"image": "max_images", "video": "max_videos"}.get(name.strip())
        if field is None or not number.strip().isdecimal():
            raise InputError(
                f"--limit-mm-per-prompt is {text!r}; expected something such as image=8,video=1"
            )
        limits[field] = int(number)
    return limits


def _key(path: str) -> str:
    """Read an API key from a file."""
    try:
        key = read_regular(path, _LONGEST_KEY).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the API key cannot be read from {path}: {error}") from error
    if not key:
        raise InputError(f"{path} is empty; put the API key into it")
    return key
