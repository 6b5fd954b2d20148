"""Operations of a step are counted, and peaks are of the device that is named."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attention

from twigkit.training.throughput import count_flops, peak_flops, peak_of, utilisation


def test_a_product_counts_forward_and_backward():
    weight, states = torch.randn(8, 5, requires_grad=True), torch.randn(3, 5)
    assert count_flops(lambda: states @ weight.T) == 2 * 3 * 5 * 8
    assert count_flops(lambda: (states @ weight.T).sum().backward()) == 2 * 2 * 3 * 5 * 8


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_counts_whatever_the_key_heads(key_heads):
    query = torch.randn(2, 4, 3, 8, requires_grad=True)
    key, value = torch.randn(2, 2, key_heads, 6, 8).requires_grad_()

    def attend():
        return attention(query, key, value, enable_gqa=True)

    product = 2 * (2 * 4) * 3 * 6 * 8  # of all query heads, over rows, columns and width
    assert count_flops(attend) == 2 * product
    assert count_flops(lambda: attend().sum().backward()) == (2 + 5) * product


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn"])
def test_attention_counts_alike_in_every_kernel_of_a_gpu(kernel):
    name = f"_scaled_dot_product_{kernel}_attention"
    query, key = torch.empty(2, 4, 3, 8, device="meta"), torch.empty(2, 2, 6, 8, device="meta")
    rest = {"flash": (), "efficient": (None, False), "cudnn": (None, False)}[kernel]
    operation = getattr(torch.ops.aten, name)
    assert count_flops(lambda: operation(query, key, key, *rest)) == 2 * 2 * (2 * 4) * 3 * 6 * 8


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 125e12),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A1000", None),
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
    flops = count_flops(lambda: matrix @ matrix)

    def seconds():
        watch = Stopwatch.on(device, ("work",))
        matrix @ matrix
        watch.lap("work")
        return watch.seconds["work"]

    # Other processes may use the device, too.
    assert 0.3 < utilisation(flops, min(seconds() for _ in range(30)), device) <= 1.1
