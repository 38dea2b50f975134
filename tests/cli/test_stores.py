"""All embedded parts together, secured: from events to rows and cached values, each part as the role that it plays."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.commands import finish, run, start
from tests.cli.test_demo import assert_the_full_story_of_a_made_up_market, figures
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server, which TLS takes")
def test_what_the_demo_makes_is_in_database_and_cache_over_tls(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "demo"
    here = ("--data-dir", folder, "--prefix", "demo.")
    demo = start("demo", "--days", 8, "--seed", 3, "--secure", "--with-stores", "--keep", cwd=tmp_path)
    try:
        code, out, err = finish(demo, 900)
        assert code == 0, err
        assert_the_full_story_of_a_made_up_market(out)
        assert "· secured: TLS" in out
        shown = figures(out)
        rows = dict(re.findall(r"│ (\w+) +│ +([\d,]+) │ [A-Z]{3}/[A-Z]{3}", out))
        assert rows["market_data"] == shown["bars"]
        assert rows["signals"] == shown["signals"]
        assert rows.keys() == {"market_data", "signals", "quantum_patterns", "trading_results"}
        assert len(re.findall(r"│ [A-Z]{3}/[A-Z]{3} │ +[\d.]+ +│ (?:BUY|SELL|HOLD) ", out)) == 4
        code, told, err = run("cache", "verify", *here, cwd=tmp_path)
        assert code == 0, told + err
        code, told, _ = run("connect", "status", "--json", *here, cwd=tmp_path)
        assert code == 0
        assert {sink["lag"] for sink in json.loads(told)["connectors"].values()} == {0}
        parts: dict[str, dict[str, object]] = {}

        def are_healthy() -> bool:
            told = json.loads(run("status", "--json", *here, cwd=tmp_path)[1])
            parts.update({name: told[name] for name in ("kafka", "registry", "postgres", "redis", "connect")})
            return all(part["healthy"] for part in parts.values())

        until(are_healthy)
        assert all(part["secured"] for part in parts.values())
        secrets = [file.read_text() for file in folder.rglob("passwords/*")]
        assert len(secrets) > 10
        assert not any(secret in out + err + told for secret in secrets)
    finally:
        code, told, _ = run("down", "--wipe", "--yes", *here, cwd=tmp_path)
    assert code == 0
    assert "Kafka Connect, Redis, PostgreSQL, Apicurio Registry, Kafka stopped" in told
