"""The tables, in the SQL that SQLite and PostgreSQL share."""

VERSION = 1
"""Of the tables; SQLite keeps it in `user_version`, PostgreSQL in a table of its own."""

TABLES = (
    # One row a run: what changes often. The lease is (owner, epoch, expires_s); clock_s is the
    # time at which the run would have begun had it been worked on without a pause.
    """CREATE TABLE run (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        idempotency_key TEXT,
        request_hash TEXT NOT NULL,
        state TEXT NOT NULL,
        created_s DOUBLE PRECISION NOT NULL,
        clock_s DOUBLE PRECISION NOT NULL,
        owner TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        expires_s DOUBLE PRECISION NOT NULL,
        last_seq BIGINT NOT NULL
    )""",
    """CREATE UNIQUE INDEX run_by_key ON run (tenant, idempotency_key)
        WHERE idempotency_key IS NOT NULL""",
    # kind: `spec`, written once, and `outcome`, known more and more.
    """CREATE TABLE document (
        run TEXT NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, kind)
    )""",
    # The facts are a CandidateView; long texts live apart, so that lists do not read them.
    """CREATE TABLE candidate (
        run TEXT NOT NULL,
        stage BIGINT NOT NULL,
        slot BIGINT NOT NULL,
        state TEXT NOT NULL,
        facts TEXT NOT NULL,
        PRIMARY KEY (run, stage, slot)
    )""",
    # kind: `prompt` and `text`.
    """CREATE TABLE content (
        run TEXT NOT NULL,
        stage BIGINT NOT NULL,
        slot BIGINT NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, stage, slot, kind)
    )""",
    # Text of candidates that are not complete; gone once they are.
    """CREATE TABLE delta (
        run TEXT NOT NULL,
        seq BIGINT NOT NULL,
        stage BIGINT NOT NULL,
        slot BIGINT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, seq)
    )""",
    """CREATE TABLE event (
        run TEXT NOT NULL,
        seq BIGINT NOT NULL,
        kind TEXT NOT NULL,
        at_s DOUBLE PRECISION NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, seq)
    )""",
)

TABLES_OF_A_RUN = ("document", "candidate", "content", "delta", "event")
"""Every table whose rows belong to a run by their column `run`."""
