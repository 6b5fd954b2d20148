"""Operations of a step are counted, and peaks are of the device that is named."""

from __future__ import annotations

import pytest
import torch

from twigkit.training.throughput import count_flops, peak_flops, peak_of, utilisation


def test_a_product_counts_forward_and_backward():
    weight, states = torch.randn(8, 5, requires_grad=True), torch.randn(3, 5)
    assert count_flops(lambda: states @ weight.T) == 2 * 3 * 5 * 8
    assert count_flops(lambda: (states @ weight.T).sum().backward()) == 2 * 2 * 3 * 5 * 8


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 125e12),
        ("Something else", None),
    ],
)
def test_peaks_by_name(name, peak):
    assert peak_of(name) == peak


def test_a_cpu_has_no_known_peak():
    assert peak_flops(torch.device("cpu")) is None
    assert utilisation(1e12, 1.0, torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_large_product_comes_near_the_peak():
    device = torch.device("cuda")
    if peak_flops(device) is None:
        pytest.skip(f"the peak of {torch.cuda.get_device_name(device)} is not known")
    from twigkit.io.timing import Stopwatch

    matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    matrix @ matrix
    watch = Stopwatch.on(device, ("work",))
    flops = count_flops(lambda: matrix @ matrix)
    watch.start()
    for _ in range(10):
        matrix @ matrix
    watch.lap("work")
    assert 0.3 < utilisation(10 * flops, watch.seconds["work"], device) <= 1.1
