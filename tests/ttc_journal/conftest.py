"""Journals to test: a SQLite file, and PostgreSQL where OPENZAYA_TEST_POSTGRES names a server."""

import os
import secrets

import pytest

POSTGRES = os.environ.get("OPENZAYA_TEST_POSTGRES", "")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgres",
            marks=pytest.mark.skipif(not POSTGRES, reason="OPENZAYA_TEST_POSTGRES names no server"),
        ),
    ]
)
def url(request, tmp_path):
    """An empty journal's address; a database of its own on a PostgreSQL server."""
    if request.param == "sqlite":
        yield str(tmp_path / "runs.sqlite")
        return
    import psycopg

    name = f"journal_{secrets.token_hex(6)}"
    with psycopg.connect(POSTGRES, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    base = POSTGRES.rpartition("/")[0]
    yield f"{base}/{name}"
    with psycopg.connect(POSTGRES, autocommit=True) as server:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
