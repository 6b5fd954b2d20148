"""The GPU's part of docs/results.md: from what ``twigkit bench --preset`` wrote there."""

from __future__ import annotations

from typing import Any

from twigkit.bench.layer_ways import LayerCost
from twigkit.bench.shape_report import layers_table
from twigkit.bench.table import markdown_table, size

Data = dict[str, Any]


def conditions_of(gpu: Data) -> str:
    """Say on what a shape was measured."""
    told = gpu["conditions"]
    names = ("device", "dtype", "torch", "transformers", "measured", "code")
    return ", ".join(f"{name} {told[name]}" for name in names)


def decoding_table(gpu: Data) -> str:
    """Return how fast each way decodes one prompt."""
    rows = gpu["decoding"]
    first = rows[0]["decode_tokens_per_second"]
    cells = []
    for row in rows:
        made_up = row["method"]["synthetic"]
        name = row["method"]["name"] + ("" if made_up is None else f" (synthetic, {made_up:g})")
        rate, gained = row["decode_tokens_per_second"], row["accepted_length"]
        cells.append([name, f"{rate:.1f}", f"{rate / first:.2f}x",
                      "-" if gained is None else f"{gained:.2f}",
                      f"{1000 * row['latency']['between']:.1f}"])  # fmt: skip
    header = ["method", "tokens/s after the first", "speed", "tokens a step", "ms a step, median"]
    return markdown_table(header, cells)


def gpu_ratios(gpu: Data) -> str:
    """Return the ratios with their targets."""
    cells = []
    for ratio in gpu["ratios"]:
        goal = ratio["target"]
        target = "-" if goal is None else f"at {'most' if ratio['most'] else 'least'} {goal:g}"
        cells.append([ratio["name"], f"{ratio['value']:.2f}", target, ratio["verdict"]])
    return markdown_table(["ratio", "measured", "target", "verdict"], cells)


def training_table(gpu: Data) -> str:
    """Return what the steps of both training stages cost."""
    cells = [
        [cost["stage"], str(cost["samples"]), str(cost["positions"]),
         f"{1000 * cost['seconds']:.1f}", f"{cost['samples_per_second']:.1f}",
         f"{cost['utilisation']:.1%}", size(cost["peak"])]
        for cost in gpu["training"]
    ]  # fmt: skip
    header = ["step", "samples", "positions", "ms", "samples/s", "MFU", "peak memory"]
    return markdown_table(header, cells)


def layers_of(gpu: Data) -> str:
    """Return how long a layer takes in each way to run it; nothing if that was not measured."""
    costs = [LayerCost(**each) for each in gpu.get("layers", [])]
    return layers_table(costs, gpu["roofline"]["bandwidth"]) if costs else ""


def values_of(gpu: Data) -> Data:
    """Work out what the page shows of a GPU."""
    line = gpu["roofline"]
    return {
        "gpu_conditions": conditions_of(gpu),
        "gpu_bandwidth": f"{line['bandwidth'] / 1e12:.2f} TB/s",
        "gpu_roofline": f"{line['tokens_per_second']:.0f} tokens/s",
        "gpu_decoding": decoding_table(gpu),
        "gpu_ratios": gpu_ratios(gpu),
        "gpu_training": training_table(gpu),
        "gpu_layers": layers_of(gpu),
        "gpu_prefill": [f"{1000 * row['prefill_seconds']:.1f}" for row in gpu["prefill"]],
        "gpu_batches": [f"{row['tokens_per_second']:.0f}" for row in gpu["batches"]],
    }
