"""``twigkit import-reference``: turn a published TwigVLM checkpoint into a twig."""

from __future__ import annotations

import argparse

from twigkit.cli.loading import DTYPES, add_force, base_folder, free_for_twig, quieten


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "--base", required=True, metavar="MODEL", help="folder or Hub id of the twig's base model"
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="folder of the published checkpoint"
    )
    parser.add_argument(
        "--exit-layer",
        type=int,
        metavar="K",
        help="base layers before the twig (default: what the checkpoint's name says, such as "
        "K2-T3, or else 2)",
    )
    parser.add_argument(
        "--depth",
        type=int,
        metavar="T",
        help="layers of the twig (default: those that the checkpoint holds)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the twig goes")
    add_force(parser)
    parser.add_argument("--revision", help="revision of the base on the Hub")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="precision in which the twig is written (default: the base's own)",
    )


def run(args: argparse.Namespace) -> int:
    """Import a checkpoint and write the twig.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        CheckpointError: If base or checkpoint are missing or damaged, or do not fit each other, or
            the folder holds a twig already, or something else.
        SpecError: If exit layer and depth do not fit the base.
    """
    quieten()
    free_for_twig(args.out, force=args.force)
    from twigkit.model import TwigModel
    from twigkit.twig.import_twigvlm import import_reference

    base = str(base_folder(args.base))
    model = TwigModel.from_pretrained(base, dtype=args.dtype, revision=args.revision)
    model.twig = import_reference(
        args.checkpoint,
        model.stack,
        base=base,
        exit_layer=args.exit_layer,
        depth=args.depth,
        revision=args.revision,
    )
    folder = model.save_twig(
        args.out, note="Imported from a published checkpoint.", overwrite=args.force
    )
    parameters = sum(weight.numel() for weight in model.twig.parameters())
    rows = getattr(model.twig.spec.heads["lm"], "rows", None)
    print(
        f"{folder}: a twig of {model.twig.depth} layers on layer {model.twig.exit_layer} of "
        f"{base}, {parameters:,} parameters"
    )
    if "pruning" in model.twig.heads:
        print("its gates are the head 'pruning', with which the pruner 'p-head' scores")
    if rows is not None:
        vocabulary = model.stack.vocabulary
        print(f"its head has {rows} of the base's {vocabulary} rows; the others are not drafted")
    return 0
