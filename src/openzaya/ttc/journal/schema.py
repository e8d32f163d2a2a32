"""The tables, in the SQL that SQLite and PostgreSQL share."""

VERSION = 3
"""Of the tables; SQLite keeps it in `user_version`, PostgreSQL in a table of its own."""

TABLES = (
    # One row a run: what changes seldom. The lease is (owner, epoch, expires_s); clock_s is the
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
        expires_s DOUBLE PRECISION NOT NULL
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
    # What happened, never changed: one row for all that a run told between two commits, under the
    # number of the newest event in it. The body has the events, the content what lists do not
    # show of them: the frame of a prompt, the texts of an end. It comes last, so that who reads
    # the body does not read it.
    """CREATE TABLE told (
        run TEXT NOT NULL,
        seq BIGINT NOT NULL,
        body TEXT NOT NULL,
        content TEXT,
        PRIMARY KEY (run, seq)
    )""",
    # Text of candidates that are not complete; gone once they are. Numbered with the events.
    """CREATE TABLE delta (
        run TEXT NOT NULL,
        seq BIGINT NOT NULL,
        stage BIGINT NOT NULL,
        slot BIGINT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, seq)
    )""",
)

TABLES_OF_A_RUN = ("document", "delta", "told")
"""Every table whose rows belong to a run by their column `run`."""
