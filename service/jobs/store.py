"""The store: a database for the records, and a folder for the bytes of files.

Every verb is one transaction. Whoever works on a job holds a lease on it: exactly one owner at a time, until it ends
the job, releases it, or stops renewing. A verb that needs the lease says so by its `owner` and tells whether it was
still held; who lost it must stop, since another may already have begun.

The clocks of machines that share a database may differ by less than a lease is long.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

import orjson
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    and_,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    or_,
    select,
    update,
)

from service import disk
from service.jobs import tables
from service.jobs.records import (
    OPEN,
    PREFIX,
    Alias,
    Checkpoint,
    Ended,
    Event,
    File,
    Job,
    Kind,
    Level,
    Page,
    SortOrder,
    Staged,
    Wanted,
)
from service.jobs.tables import aliases, checkpoints, events, files, jobs

log = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_SECONDS = 30  # how long a writer waits for another one, in SQLite
CHUNK = 1 << 20
STAGED = ".part"
"""Ends the names of files that are not yet in the store."""

MAX_ATTEMPTS = 5
"""Workers that a job may lose without going further before it is taken to be the job's own fault."""
ADVANCING = ("done", "marked", "step")
"""Facts of a job's progress that only grow, however often its worker is lost."""


NEW_ATTEMPTS = {"attempt": 0, "stalled": 0}


class Missing(LookupError):
    """There is no such record."""


class BadCursor(Missing):
    """A page was asked for behind a record that is not in the list."""


class Conflict(ValueError):
    """The record's state does not allow this."""


class Store:
    """Open with `Store.open`; safe to use from many threads and processes."""

    def __init__(self, engine: Engine, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.folder = folder
        self.clock = clock

    @classmethod
    def open(cls, folder: Path, url: str = "", clock: Callable[[], float] = time.time) -> Store:
        """The store of a data directory, made where it is missing; raise ValueError for a database of another version.

        Without a URL the database is SQLite in the same directory, which must then not be on a network file system.
        """
        disk.make_private(folder)
        if disk.open_to_others(folder):
            log.warning("other users may read %s, where prompts and keys are kept: chmod 700 %s", folder, folder)
        disk.make_folder(folder / "files")
        store = cls(connect(make_url(url or f"sqlite:///{folder / 'outthink.db'}")), folder, clock)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self) -> None:
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":  # two processes must not create the tables at once
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(71101)")
            tables.metadata.create_all(connection)
            version = connection.execute(select(tables.schema.c.version)).scalar()
            if version is None:
                connection.execute(insert(tables.schema).values(version=tables.VERSION))
            elif version > tables.VERSION:
                raise ValueError(f"the database has version {version}; this program needs {tables.VERSION}")
            else:
                self._upgrade(connection, version)

    def _upgrade(self, connection: Connection, version: int) -> None:
        for older in range(version, tables.VERSION):
            for statement in tables.UPGRADES[older]:
                connection.exec_driver_sql(statement)
        connection.execute(update(tables.schema).values(version=tables.VERSION))

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction. SQLite takes its lock at once: one that begins by reading could not always wait for it."""
        with self.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def _read(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def now(self) -> int:
        return int(self.clock())

    # Files

    def path(self, file_id: str) -> Path:
        """Where a file's bytes are; raise Missing for an id that is not in the table, so that none can be a path."""
        self.file(file_id)
        return self.folder / "files" / file_id

    def write_file(self, purpose: str, filename: str, source: BinaryIO | bytes, file_id: str = "") -> File:
        """Keep what is read from `source` as a file; it appears when it is whole and on disk.

        A file of the same id is replaced: who may be interrupted names the id, and writes the file once.
        """
        staged = self.stage_file(purpose, filename, source, file_id)
        try:
            with self._writing() as connection:
                self._keep(connection, staged)
        finally:
            staged.path.unlink(missing_ok=True)
        return staged.file

    def stage_file(self, purpose: str, filename: str, source: BinaryIO | bytes, file_id: str = "") -> Staged:
        """Write what is read from `source` to the disk, unseen, for `finish` to make a file of it."""
        file_id = file_id or f"file-{uuid4().hex}"
        path = self.folder / "files" / f"{file_id}.{uuid4().hex}{STAGED}"
        try:
            digest, size = copy(source, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Staged(File(file_id, purpose, filename, size, digest, self.now()), path)

    def _keep(self, connection: Connection, staged: Staged) -> None:
        """Make a file of a staged one."""
        disk.rename(staged.path, self.folder / "files" / staged.file.id)
        connection.execute(delete(files).where(files.c.id == staged.file.id))
        connection.execute(insert(files).values(asdict(staged.file)))

    def unstage(self, file_id: str) -> None:
        """Remove what was to become this file, if it has not: staged, or with its name already when a kill came."""
        with self._writing() as connection:
            if connection.execute(select(files.c.seq).where(files.c.id == file_id)).first() is None:
                (self.folder / "files" / file_id).unlink(missing_ok=True)
        for path in (self.folder / "files").glob(f"{file_id}.*{STAGED}"):
            path.unlink(missing_ok=True)

    def sweep_staged(self, seconds: float) -> None:
        """Remove what was staged and that nobody has touched for so long: its writer was killed."""
        for path in (self.folder / "files").glob(f"*{STAGED}"):
            if disk.untouched(path, seconds):
                path.unlink(missing_ok=True)

    def file(self, file_id: str) -> File:
        return self._one(files, File, files.c.id == file_id, f"there is no file {file_id!r}")

    def files(
        self, *, purpose: str | None = None, after: str | None = None, limit: int = 10_000, order: SortOrder = "desc"
    ) -> Page[File]:
        where = [] if purpose is None else [files.c.purpose == purpose]
        return self._page(files, File, where, after, limit, order)

    def delete_file(self, file_id: str) -> None:
        """Delete a file, its bytes before its record: who is killed between the two can do it again."""
        with self._writing() as connection:
            if not connection.execute(delete(files).where(files.c.id == file_id)).rowcount:
                raise Missing(f"there is no file {file_id!r}")
            (self.folder / "files" / file_id).unlink(missing_ok=True)

    # Jobs, as those see them who ask for them

    def create_job(self, kind: Kind, model: str, spec: Mapping[str, Any]) -> Job:
        """Queue a job."""
        job = Job(
            id=f"{PREFIX[kind]}{uuid4().hex[:20]}",
            kind=kind,
            status="queued",
            wanted="run",
            model=model,
            spec=dict(spec),
            progress={},
            result={},
            error=None,
            created_at=self.now(),
            started_at=None,
            finished_at=None,
            lease_owner=None,
            lease_until=None,
            attempt=0,
        )
        with self._writing() as connection:
            connection.execute(insert(jobs).values(asdict(job)))
        return job

    def job(self, job_id: str, kind: Kind | None = None) -> Job:
        """One job; raise Missing when there is none, or it is of another kind."""
        where = jobs.c.id == job_id if kind is None else and_(jobs.c.id == job_id, jobs.c.kind == kind)
        return self._one(jobs, Job, where, f"there is no job {job_id!r}")

    def jobs(
        self,
        kind: Kind,
        *,
        after: str | None = None,
        limit: int = 20,
        order: SortOrder = "desc",
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Job]:
        """Jobs of a kind, the newest first; `metadata`: only those whose `spec["metadata"]` has these values."""
        found = jobs.c.spec["metadata"]
        where = [found[key].as_string() == value for key, value in (metadata or {}).items()]
        return self._page(jobs, Job, [jobs.c.kind == kind, *where], after, limit, order)

    def spec_values(self, kind: Kind, name: str) -> set[str]:
        """What the specs of all jobs of a kind have under this name."""
        return {value for (value,) in self._read(select(jobs.c.spec[name].as_string()).where(jobs.c.kind == kind))}

    def delete_job(self, job_id: str, last: Callable[[], None] | None = None) -> None:
        """Forget a job that has ended, and its events; raise Conflict while it has not, or has checkpoints.

        `last` is called when all is in order, before the change holds: for what must not be left without a record.
        """
        with self._writing() as connection:
            if not self._lock(connection, job_id).ended:
                raise Conflict(f"the job {job_id} has not ended: cancel it first")
            if connection.execute(select(checkpoints.c.seq).where(checkpoints.c.job_id == job_id).limit(1)).first():
                raise Conflict(f"the job {job_id} has checkpoints")
            connection.execute(delete(jobs).where(jobs.c.id == job_id))
            if last is not None:
                last()

    def want(self, job_id: str, wanted: Wanted) -> Job:
        """Ask for a job to be run (again), paused or cancelled; raise Conflict when it has ended.

        What is being worked on changes when its worker notices, within a step; what is not, at once.
        """
        change = update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(OPEN), jobs.c.wanted != "cancel")
        with self._writing() as connection:
            changed = connection.execute(change.values(wanted=wanted)).rowcount
            self._settle(connection)
        job = self.job(job_id)
        if not changed and not (wanted == job.wanted == "cancel" and not job.ended):
            raise Conflict(f"the job {job_id} is {job.status if job.ended else 'being cancelled'}")
        return job

    def reopen(self, job_id: str) -> Job:
        """Queue a job again that failed or was cancelled; raise Conflict for any other."""
        fresh = {"status": "queued", "wanted": "run", "error": None, "finished_at": None, **NEW_ATTEMPTS}
        with self._writing() as connection:
            status = self._lock(connection, job_id).status
            if status not in ("failed", "cancelled"):
                raise Conflict(f"the job {job_id} is {status}: only one that failed or was cancelled can be reopened")
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**fresh))
            return self._job(connection, job_id)

    # Jobs, as those see them who do them

    def take_job(self, owner: str, seconds: float, kinds: Sequence[Kind] = ("fine_tuning",)) -> Job | None:
        """Take the oldest job that nobody works on, for so long; None when there is none.

        A job whose worker died is taken again: `attempt` counts, from 1. `owner` must be unique to the process.
        """
        now = self.clock()
        free = and_(jobs.c.kind.in_(kinds), jobs.c.status.in_(("queued", "running")), jobs.c.wanted == "run", idle(now))
        with self._writing() as connection:
            self._settle(connection)
        for (job_id,) in self._read(select(jobs.c.id).where(free).order_by(jobs.c.seq).limit(16)):
            taken = update(jobs).where(jobs.c.id == job_id, free)
            attempts = {"attempt": jobs.c.attempt + 1, "stalled": jobs.c.stalled + 1}
            lease = {"lease_owner": owner, "lease_until": now + seconds, **attempts}
            with self._writing() as connection:
                if connection.execute(taken.values(status="running", **lease)).rowcount:
                    first = update(jobs).where(jobs.c.id == job_id, jobs.c.started_at.is_(None))
                    connection.execute(first.values(started_at=int(now)))
                    return self._job(connection, job_id)
        return None

    def renew(self, job_id: str, owner: str, seconds: float) -> Wanted | None:
        """Keep the lease for so long from now; what is wanted of the job, None when the lease was lost."""
        lease = update_held(job_id, owner).values(lease_until=self.clock() + seconds)
        with self._writing() as connection:
            return self._job(connection, job_id).wanted if connection.execute(lease).rowcount else None

    def wanted(self, job_id: str) -> Wanted:
        return self.job(job_id).wanted

    def progress(self, job_id: str, owner: str, **facts: Any) -> bool:
        """Write down how far a job is: the facts replace those of the same name. False when the lease was lost."""
        query = select(jobs.c.progress, jobs.c.furthest).where(jobs.c.id == job_id).with_for_update()
        with self._writing() as connection:
            known, furthest = connection.execute(query).one_or_none() or ({}, 0)
            now = {**known, **facts}
            reached = sum(now.get(name) or 0 for name in ADVANCING)
            further = {"furthest": reached, "stalled": 0} if reached > furthest else {}
            return bool(connection.execute(update_held(job_id, owner).values(progress=now, **further)).rowcount)

    def finish(
        self,
        job_id: str,
        owner: str,
        status: Ended,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        files: Sequence[Staged] = (),
        message: str = "",
    ) -> bool:
        """End a job: with it appear the files that it made, and the message as its last event.

        False when the lease was lost, or the job has ended: then nothing has changed, and the files are the caller's.
        """
        ended = {"status": status, "finished_at": self.now(), "lease_owner": None, "lease_until": None}
        change = update_held(job_id, owner).values(
            **ended, result=dict(result or {}), error=dict(error) if error else None
        )
        with self._writing() as connection:
            if not connection.execute(change).rowcount:
                return False
            for staged in files:
                self._keep(connection, staged)
            if message:
                self._note(connection, job_id, "info" if error is None else "error", message)
            return True

    def release(self, job_id: str, owner: str) -> bool:
        """Give a job back unfinished: because it is to pause, or the worker stops. False when the lease was lost."""
        change = update_held(job_id, owner).values(status="queued", lease_owner=None, lease_until=None, **NEW_ATTEMPTS)
        with self._writing() as connection:
            done = bool(connection.execute(change).rowcount)
            self._settle(connection)
            return done

    def note(self, job_id: str, level: Level, message: str, data: Mapping[str, Any] | None = None) -> Event:
        """Add an event to a job's story."""
        with self._writing() as connection:
            return self._note(connection, job_id, level, message, data)

    def _note(
        self, connection: Connection, job_id: str, level: Level, message: str, data: Mapping[str, Any] | None = None
    ) -> Event:
        entry = Event(
            id=f"ftevent-{uuid4().hex}",
            job_id=job_id,
            created_at=self.now(),
            level=level,
            type="message" if data is None else "metrics",
            message=message,
            data=None if data is None else dict(data),
        )
        connection.execute(insert(events).values(asdict(entry)))
        return entry

    def events(
        self, job_id: str, *, after: str | None = None, limit: int = 20, order: SortOrder = "desc"
    ) -> Page[Event]:
        return self._page(events, Event, [events.c.job_id == job_id], after, limit, order)

    def _lock(self, connection: Connection, job_id: str) -> Job:
        """A job that nobody else changes until the transaction ends; raise Missing when there is none."""
        row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one_or_none()
        if row is None:
            raise Missing(f"there is no job {job_id!r}")
        return record(Job, row)

    def _job(self, connection: Connection, job_id: str) -> Job:
        return record(Job, connection.execute(select(jobs).where(jobs.c.id == job_id)).one())

    def _settle(self, connection: Connection) -> None:
        """End, requeue or give up what nobody works on any more."""
        now = self.clock()
        left = update(jobs).where(jobs.c.status.in_(OPEN), idle(now))
        nobody = {"lease_owner": None, "lease_until": None}
        ended = {"finished_at": int(now), **nobody}
        connection.execute(left.where(jobs.c.wanted == "cancel").values(status="cancelled", **ended))
        connection.execute(
            left.where(jobs.c.wanted == "pause", jobs.c.status == "running").values(status="queued", **nobody)
        )
        error = {"code": "worker_lost", "message": f"{MAX_ATTEMPTS} workers died of this job", "param": None}
        connection.execute(left.where(jobs.c.stalled >= MAX_ATTEMPTS).values(status="failed", error=error, **ended))

    # Checkpoints and aliases

    def publish(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint known, once its folder is in place; publishing it again replaces its record.

        Raise Conflict for a name that was deleted: engines may still hold what it stood for.
        """
        values = asdict(checkpoint)
        known = update(checkpoints).where(checkpoints.c.name == checkpoint.name)
        deleted = select(checkpoints.c.seq).where(
            checkpoints.c.name == checkpoint.name, checkpoints.c.deleted_at.is_not(None)
        )
        with self._writing() as connection:
            if connection.execute(deleted).first() is not None:
                raise Conflict(f"{checkpoint.name} was deleted, and its name is not used again")
            if not connection.execute(known.values(values)).rowcount:
                connection.execute(insert(checkpoints).values(values))

    def checkpoint(self, name: str) -> Checkpoint:
        """A checkpoint that was not deleted; raise Missing."""
        where = and_(checkpoints.c.name == name, checkpoints.c.deleted_at.is_(None))
        return self._one(checkpoints, Checkpoint, where, f"there is no checkpoint {name!r}")

    def checkpoints(self, job_id: str | None = None, *, deleted: bool = False) -> list[Checkpoint]:
        """Those of one job or of all, the newest first; `deleted`: with those that were deleted."""
        query = select(checkpoints).order_by(checkpoints.c.seq.desc())
        if job_id is not None:
            query = query.where(checkpoints.c.job_id == job_id)
        if not deleted:
            query = query.where(checkpoints.c.deleted_at.is_(None))
        return [record(Checkpoint, row) for row in self._read(query)]

    def delete_checkpoint(self, name: str) -> None:
        """Forget a checkpoint; its name stays used. Raise Conflict while an alias stands for it."""
        with self._writing() as connection:
            alias = connection.execute(select(aliases.c.name).where(aliases.c.model == name)).scalar()
            if alias is not None:
                raise Conflict(f"the alias {alias!r} stands for {name}: move or delete it first")
            gone = update(checkpoints).where(checkpoints.c.name == name, checkpoints.c.deleted_at.is_(None))
            if not connection.execute(gone.values(deleted_at=self.now())).rowcount:
                raise Missing(f"there is no checkpoint {name!r}")

    def point(self, name: str, model: str) -> Alias:
        """Let an alias stand for a model from now on."""
        alias = Alias(name, model, self.now())
        with self._writing() as connection:
            moved = update(aliases).where(aliases.c.name == name).values(asdict(alias))
            if not connection.execute(moved).rowcount:
                connection.execute(insert(aliases).values(asdict(alias)))
        return alias

    def alias(self, name: str) -> Alias:
        return self._one(aliases, Alias, aliases.c.name == name, f"there is no alias {name!r}")

    def aliases(self) -> list[Alias]:
        return [record(Alias, row) for row in self._read(select(aliases).order_by(aliases.c.name))]

    def delete_alias(self, name: str) -> None:
        with self._writing() as connection:
            if not connection.execute(delete(aliases).where(aliases.c.name == name)).rowcount:
                raise Missing(f"there is no alias {name!r}")

    # Reading records

    def _one(self, table: Table, kind: type[T], where: ColumnElement[bool], missing: str) -> T:
        rows = self._read(select(table).where(where))
        if not rows:
            raise Missing(missing)
        return record(kind, rows[0])

    def _page(
        self,
        table: Table,
        kind: type[T],
        where: Sequence[ColumnElement[bool]],
        after: str | None,
        limit: int,
        order: SortOrder,
    ) -> Page[T]:
        """The next records after the one with the id `after`; raise BadCursor when there is none of that id."""
        query = select(table).where(*where).limit(limit + 1)
        if after is not None:
            place = self._read(select(table.c.seq).where(*where, table.c.id == after))
            if not place:
                raise BadCursor(f"there is nothing with the id {after!r} in this list")
            query = query.where(table.c.seq < place[0][0] if order == "desc" else table.c.seq > place[0][0])
        rows = self._read(query.order_by(table.c.seq.desc() if order == "desc" else table.c.seq))
        return Page([record(kind, row) for row in rows[:limit]], len(rows) > limit)


def connect(url: URL) -> Engine:
    """An engine; SQLite is told to let readers read while somebody writes, to wait, and to keep references whole."""
    engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite", json_serializer=as_json)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: object) -> None:
            connection.isolation_level = None  # transactions begin where `Store._writing` says
            for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "journal_mode=WAL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}").close()

    return engine


def as_json(value: Any) -> str:
    """JSON with null for what is no number: a training may measure such, and PostgreSQL refuses NaN."""
    return orjson.dumps(value).decode()


def update_held(job_id: str, owner: str) -> Any:
    """A change to a job that only the owner of its lease may make; a lease that ran out unnoticed is still held."""
    return update(jobs).where(jobs.c.id == job_id, jobs.c.lease_owner == owner, jobs.c.status == "running")


def idle(now: float) -> ColumnElement[bool]:
    return or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < now)


def record(kind: type[T], row: Row[Any]) -> T:
    """A row as its record; `seq` stays in the table."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in row._mapping.items() if name in names})


def copy(source: BinaryIO | bytes, path: Path) -> tuple[str, int]:
    """Write what is read from a source to the disk; return its checksum and its size."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as stream:
        for chunk in chunks(source):
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest(), size


def chunks(source: BinaryIO | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    while chunk := source.read(CHUNK):
        yield chunk
