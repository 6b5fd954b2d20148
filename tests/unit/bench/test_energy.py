"""Counters of energy, in a folder as Linux shows it."""

from __future__ import annotations

import pytest
import torch

from twigkit.bench.energy import Counter, EnergyMeter, energy_meter

CPU = torch.device("cpu")


@pytest.fixture
def zone(tmp_path):
    """A function that writes a zone's counter."""

    def write(name, micro, span=9_000_000, what="package-0"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(f"{what}\n")
        (folder / "energy_uj").write_text(f"{micro}\n")
        (folder / "max_energy_range_uj").write_text(f"{span}\n")

    return write


def test_packages_are_added_up_and_their_parts_left_out(zone, tmp_path):
    zone("intel-rapl:0", 1_000_000)
    zone("intel-rapl:1", 2_000_000)
    zone("intel-rapl:0:0", 500_000, what="core")
    meter = energy_meter(CPU, tmp_path)
    started = meter.start()
    assert started == (1.0, 2.0)
    zone("intel-rapl:0", 3_500_000)
    zone("intel-rapl:1", 2_250_000)
    assert meter.joules(started) == pytest.approx(2.75)


def test_the_platform_that_holds_the_packages_is_left_out(zone, tmp_path):
    zone("intel-rapl:0", 1_000_000)
    zone("intel-rapl:1", 7_000_000, what="psys")
    zone("intel-rapl:2", 2_000_000, what="package-1-die-0")
    assert energy_meter(CPU, tmp_path).start() == (1.0, 2.0)


def test_a_counter_that_starts_again(zone, tmp_path):
    zone("intel-rapl:0", 8_000_000)
    meter = energy_meter(CPU, tmp_path)
    started = meter.start()
    zone("intel-rapl:0", 1_000_000)
    assert meter.joules(started) == pytest.approx(2.0)


def test_nothing_is_made_up_where_nothing_can_be_read(zone, tmp_path):
    assert energy_meter(CPU, tmp_path) is None
    zone("intel-rapl:0", "no number")
    assert energy_meter(CPU, tmp_path) is None


def test_a_gpus_counter_has_no_span():
    shown = iter([5.0, 7.5])
    meter = EnergyMeter("NVML", (Counter(lambda: next(shown)),))
    assert meter.joules(meter.start()) == 2.5
