"""`bench`: figures beside their baselines. What they are is not looked at: that is for a machine at rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run


def test_a_figure_comes_with_its_baseline_and_their_ratio(tmp_path: Path) -> None:
    code, out, err = run("bench", "cpu_engine", "--runs", 1, "--seconds", 1, "--json", cwd=tmp_path)
    assert code == 0, err
    one_core, scaling = map(json.loads, out.splitlines())
    assert one_core["what"] == "CPU engine, contiguous anchors, one core"
    assert (one_core["against"], scaling["against"]) == ("scalar Numba loop", "one thread")
    assert scaling["baseline"] == one_core["ours"]
    for figure in (one_core, scaling):
        assert figure["ratio"] == pytest.approx(figure["baseline"] / figure["ours"])


def test_an_unknown_one_is_wrong_usage(tmp_path: Path) -> None:
    code, _, err = run("bench", "teleport", cwd=tmp_path)
    assert code == 2
    assert "teleport" in err


@pytest.mark.slow
@pytest.mark.integration
def test_that_of_the_cache_gives_its_figures_without_tls_at_least(tmp_path: Path) -> None:
    code, out, err = run("bench", "cache", "--runs", 1, "--seconds", 1, "--json", cwd=tmp_path)
    assert code == 0, err
    assert len(out.splitlines()) == (4 if "no figure with TLS" in err else 8)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "figures"), [("convert", 4), ("flood", 1), ("log", 2), ("publish", 1), ("latency", 6), ("database", 2)]
)
def test_those_on_a_server_give_all_their_figures(tmp_path: Path, name: str, figures: int) -> None:
    code, out, err = run("bench", name, "--runs", 1, "--seconds", 3, "--json", cwd=tmp_path)
    assert code == 0, err
    assert len([json.loads(line) for line in out.splitlines()]) == figures
