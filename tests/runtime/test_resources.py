"""Declared data is found in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.resources import resource


def test_in_a_checkout_it_lies_beside_the_package(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    assert resource("schemas", tmp_path / "sep_stream") == tmp_path / "schemas"


def test_installed_it_lies_inside_the_package(tmp_path: Path) -> None:
    inside = tmp_path / "sep_stream" / "resources" / "schemas"
    inside.mkdir(parents=True)
    assert resource("schemas", tmp_path / "sep_stream") == inside


def test_what_is_inside_comes_before_what_happens_to_lie_beside(tmp_path: Path) -> None:
    inside = tmp_path / "sep_stream" / "resources" / "schemas"
    inside.mkdir(parents=True)
    (tmp_path / "schemas").mkdir()
    assert resource("schemas", tmp_path / "sep_stream") == inside


def test_a_file_of_that_name_is_no_resource(tmp_path: Path) -> None:
    (tmp_path / "schemas").write_text("")
    with pytest.raises(ConfigurationError):
        resource("schemas", tmp_path / "sep_stream")


def test_where_it_was_looked_for_is_told(tmp_path: Path) -> None:
    package = tmp_path / "sep_stream"
    with pytest.raises(ConfigurationError, match=f"schemas: not found in {package}/resources/schemas nor {tmp_path}/"):
        resource("schemas", package)


@pytest.mark.parametrize("name", ["schemas", "topology", "migrations", "kernels", "bench"])
def test_this_package_has_its_resources(name: str) -> None:
    assert any(resource(name).iterdir())
