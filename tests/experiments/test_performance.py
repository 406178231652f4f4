"""The page on performance says what the committed benches recorded."""

import json

import pytest

from experiments.performance import __main__ as page
from experiments.performance import figures, pictures

ENVIRONMENT = {
    "versions": {"python": "3.11.7", "jax": "0.10.2", "optax": "0.2.8", "torch": "2.13.0"},
    "processor": {"model": "CPU", "cores": 2},
    "device": {"platform": "cpu", "kind": "cpu"},
}


def contestant(median, **changes):
    errors = {"loss": 1e-7, "gradient": 3e-6}
    times = {"median_ms": median, "minimum_ms": 0.9 * median, "processor_ms": 1.5 * median}
    return {"errors": errors, "temporary_bytes": 3 * 2**20, **times, **changes}


def record(shape, optax=40.0, **changes):
    contest = {
        "the three products alone": contestant(10.0, errors={}, temporary_bytes=None),
        "optax": contestant(optax),
        "ours, chunked sum": contestant(20.0),
        "ours, chunked sum, 64 rows": contestant(30.0),
        "PyTorch": contestant(80.0, temporary_bytes=None),
        "tokamax": {"failed": "ModuleNotFoundError: none"},
    }
    bench = {"bench": "linear_xent", "date": "2026-01-02", "environment": ENVIRONMENT}
    return bench | {"figures": {"load_before": 0.1, f"{shape} float32": contest}} | changes


@pytest.fixture
def load(tmp_path):
    def load(*records):
        lines = "".join(json.dumps(line) + "\n" for line in records)
        (tmp_path / "bench_linear_xent_cpu.jsonl").write_text(lines)
        return figures.load(tmp_path)

    return load


def test_a_table_has_a_line_for_everyone_who_took_part(load):
    (*_, floor, optax, ours, _, torch, _, missing) = (
        figures.Tables(load(record("8x2x4"))).linear().splitlines()
    )
    assert floor == "| the three products alone | 10.0 | 9.0 | 0.25 | 1.5 |  |  |  | 100 % |"
    assert optax == "| optax | 40.0 | 36.0 | 1.00 | 1.5 | 3 | 1e-07 | 3e-06 | 25 % |"
    assert ours == "| ours, chunked sum | 20.0 | 18.0 | 0.50 | 1.5 | 3 | 1e-07 | 3e-06 | 50 % |"
    assert torch.startswith("| PyTorch | 80.0 | 72.0 | 2.00 |")
    assert missing == "Not here: tokamax: ModuleNotFoundError: none."


def test_a_later_record_takes_the_place_of_an_earlier_one(load):
    (contest,) = load(record("8x2x4"), record("8x2x4", optax=50.0))
    assert contest.figures["optax"]["median_ms"] == 50.0
    assert contest.where == (
        "CPU, 2 cores; Python 3.11.7, JAX 0.10.2, optax 0.2.8, PyTorch 2.13.0; 2026-01-02; "
        "load before: 0.1"
    )


def test_other_chunks_are_compared_with_our_own_choice(load):
    assert "| 8 x 2 x 4, float32 | 64 | 1.50 |" in figures.Tables(load(record("8x2x4"))).rows()
    assert figures.Tables([]).rows() == "No others were tried yet."


def test_growth_is_of_one_size_at_a_time(load, tmp_path):
    shapes = ("1024x256x16384", "1024x256x4096", "2048x256x16384", "2048x256x4096")
    grown = figures.growth(load(*(record(s, optax=40.0 + i) for i, s in enumerate(shapes))))
    assert grown["classes V"]["optax"].sizes == [4096, 16384]
    assert grown["classes V"]["optax"].seconds == [0.041, 0.04]
    assert grown["tokens N"]["optax"].sizes == [1024, 2048]
    assert grown["features D"]["optax"].temporary == [3 * 2**20]
    pictures.draw_growth(grown, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_the_page_is_current():
    assert page.PAGE.read_text() == page.text(figures.load(page.DOCS / "results")), (
        "run `python -m experiments.performance`"
    )
    assert page.PICTURE.exists()
