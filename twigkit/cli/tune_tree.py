"""``twigkit tune-tree``: find the static token tree that suits a twig's heads."""

from __future__ import annotations

import argparse

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, load_model, processor_of
from twigkit.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    add_model_arguments(parser)
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--prompt", action="append", required=True, help="a question; may be repeated"
    )
    group.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="a picture; none at all, or one for each --prompt, in the same order",
    )
    group.add_argument(
        "--budget", type=count_or_fraction, metavar="R", help="average visual tokens"
    )
    group.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="(128)")
    group = parser.add_argument_group("tree")
    group.add_argument("--nodes", type=int, default=32, metavar="N", help="most nodes (32)")
    group.add_argument("--ranks", type=int, default=8, metavar="N", help="guesses per depth (8)")
    group.add_argument("--head", default="lm", metavar="NAME", help="head of the next token (lm)")
    group.add_argument(
        "--ahead", default="medusa", metavar="NAME", help="head of the tokens after it (medusa)"
    )
    group.add_argument(
        "--out", metavar="FILE", help="where the generation spec goes (default: it is printed)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure the heads, search the tree and write its spec.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        TwigkitError: If a model, a picture or an option cannot be used.
    """
    if args.nodes < 1 or args.ranks < 1:
        raise InputError("--nodes and --ranks are 1 or more")
    if args.image and len(args.image) != len(args.prompt):
        raise InputError(
            f"{len(args.image)} --image for {len(args.prompt)} --prompt; give none, or one for each"
        )
    from twigkit.io.processors import open_picture, prepare

    pictures = [[open_picture(path)] for path in args.image] or [[] for _ in args.prompt]
    model = load_model(args)
    processor = processor_of(args, model)
    from twigkit.bench.tree_tuning import accuracies, guessed_paths
    from twigkit.io.files import write_whole
    from twigkit.specs.run import GenerationSpec
    from twigkit.speculative.static_trees import expected_length, search

    prompts = [
        prepare(processor, prompt, shown)
        for prompt, shown in zip(args.prompt, pictures, strict=True)
    ]
    guessed = guessed_paths(
        model,
        prompts,
        head=args.head,
        ahead=args.ahead,
        ranks=args.ranks,
        max_new_tokens=args.max_new_tokens,
        budget=args.budget,
    )
    ranks = min(args.ranks, model.stack.vocabulary)
    shares_by_depth = accuracies(guessed, ranks)
    tree = search(shares_by_depth, args.nodes)
    drafter = {"kind": "medusa-tree", "paths": tree.paths(), "head": args.head, "ahead": args.ahead}
    spec = GenerationSpec.model_validate({"budget": args.budget, "drafter": drafter})
    for depth, shares in enumerate(shares_by_depth, 1):
        best = ", ".join(f"{share:.3f}" for share in shares)
        print(f"# {depth} ahead: guesses right in {best} of the places")
    nodes, expected = tree.num_nodes - 1, expected_length(tree)
    print(f"# {nodes} nodes, expected accepted length {expected:.2f}")
    if args.out is None:
        print(spec.to_yaml(), end="")
    else:
        print(f"# written to {write_whole(args.out, spec.to_yaml())}")
    return 0
