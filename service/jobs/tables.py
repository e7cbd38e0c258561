"""The tables. `seq` orders what was made in the same second; what clients see is `id`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

VERSION = 2
"""Of the schema; an older one is upgraded, a newer one is refused."""

UPGRADES: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE jobs ADD COLUMN stalled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN furthest FLOAT NOT NULL DEFAULT 0",
    ),
}
"""What makes the next version of a schema, by its version."""

metadata = MetaData()


def sequence() -> Column[int]:
    return Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


schema = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

files = Table(
    "files",
    metadata,
    sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("wanted", String(8), nullable=False),
    Column("model", Text, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("lease_owner", Text),
    Column("lease_until", Float(53)),
    Column("attempt", Integer, nullable=False),
    Column("stalled", Integer, nullable=False, server_default="0"),  # attempts since it went further than ever
    Column("furthest", Float(53), nullable=False, server_default="0"),
    Index("jobs_by_kind", "kind", "status", "seq"),
)

events = Table(
    "events",
    metadata,
    sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON(none_as_null=True)),
    Index("events_by_job", "job_id", "seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    sequence(),
    Column("name", String(255), nullable=False, unique=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False),
    Column("parent", Text, nullable=False),
    Column("method", String(16), nullable=False),
    Column("form", String(8), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Index("checkpoints_by_job", "job_id", "seq"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("model", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
