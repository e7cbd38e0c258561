"""OpenAI's files API through the official SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from service.settings import Settings
from service.web import bodies
from tests.conftest import outthink
from tests.service.fine_tuning import SFT, lines, queued, service

ROWS = lines(SFT, SFT)


async def test_a_file_comes_back_as_it_was() -> None:
    async with service() as (client, _):
        file = await client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune")
        assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(ROWS), "train.jsonl", "fine-tune")
        assert (file.status, file.expires_at, file.status_details) == ("processed", None, None)
        assert await client.files.retrieve(file.id) == file
        assert (await client.files.content(file.id)).content == ROWS
        waited = await client.files.wait_for_processing(file.id)
        assert waited == file
        deleted = await client.files.delete(file.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
        for lost in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await lost(file.id)


async def test_files_are_listed_page_by_page_and_by_purpose() -> None:
    async with service() as (client, _):
        made = [(await client.files.create(file=(f"{i}.jsonl", b"{}"), purpose="evals")).id for i in range(5)]
        other = await client.files.create(file=("x", b"{}"), purpose="fine-tune")
        assert [file.id async for file in client.files.list()] == [other.id, *reversed(made)]
        assert [file.id async for file in client.files.list(limit=2, purpose="evals")] == made[::-1]
        assert [file.id async for file in client.files.list(limit=2, order="asc")] == [*made, other.id]
        page = await client.files.list(limit=2, after=made[2])
        assert ([file.id for file in page.data], page.has_more) == ([made[1], made[0]], False)
        with pytest.raises(openai.BadRequestError, match=r"after: .*file-nope"):
            await client.files.list(after="file-nope")
        with pytest.raises(openai.BadRequestError, match="limit"):
            await client.files.list(limit=0)


@pytest.mark.parametrize(
    "path",
    [
        "files",
        "fine_tuning/jobs",
        "fine_tuning/jobs/JOB/events",
        "fine_tuning/jobs/JOB/checkpoints",
        "distillations",
        "benchmarks",
    ],
)
async def test_a_bad_cursor_is_the_same_error_everywhere(path: str) -> None:
    async with service() as (client, _):
        job = await queued(client)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.get(f"/{path.replace('JOB', job)}?after=nope", cast_to=object)
    assert caught.value.body == {
        "message": "after: there is nothing with the id 'nope' in this list",
        "type": "invalid_request_error",
        "param": "after",
        "code": "invalid_value",
    }


async def test_an_upload_that_stops_coming_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_SECONDS", 0.05)
    head = b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    async with outthink() as client, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + part)
        reply = await reader.read()  # to the end: the server closes the connection
        writer.close()
    assert reply.startswith(b"HTTP/1.1 400")
    assert b"incomplete_body" in reply


async def test_files_survive_a_restart() -> None:
    async with service() as (client, _):
        file = await client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune")
    async with service() as (client, _):
        assert (await client.files.content(file.id)).content == ROWS


async def test_nothing_of_a_client_becomes_a_path() -> None:
    async with service() as (client, context):
        (context.store.folder / "secret").write_text("hush")
        file = await client.files.create(file=("../../secret\r\nX-Evil: 1", b"{}"), purpose="evals")
        assert [path.name for path in (context.store.folder / "files").iterdir()] == [file.id]
        reply = await client.files.content(file.id)
        assert "x-evil" not in reply.response.headers
    async with outthink() as raw:
        for name in ("../secret", "..%2fsecret", "%2e%2e%2fsecret", "%2e%2e/outthink.db", "%00"):
            for reply_to in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
                found = await raw.get(reply_to)
                assert found.status_code in (404, 405)
                assert "hush" not in found.text


async def test_files_have_a_largest_size() -> None:
    async with service(settings=Settings(max_file_bytes=100)) as (client, context):
        assert (await client.files.create(file=("x", b"x" * 100), purpose="evals")).bytes == 100
        for size in (101, 1_000_000):
            with pytest.raises(openai.APIStatusError) as refused:
                await client.files.create(file=("x", b"x" * size), purpose="evals")
            assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")
        assert len(list((context.store.folder / "files").iterdir())) == 1


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"data": {"purpose": "vision"}, "files": {"file": b"{}"}}, "purpose"),
        ({"files": {"file": b"{}"}}, "purpose"),
        ({"data": {"purpose": "evals", "file": "text"}, "files": {"other": b""}}, "other"),
        ({"data": {"purpose": "evals", "expires_after[seconds]": "9"}, "files": {"file": b"{}"}}, "expires_after"),
        ({"json": {"purpose": "evals"}}, "file"),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "file"),
    ],
)
async def test_forms_that_are_no_upload_are_refused(form: dict[str, Any], param: str) -> None:
    async with outthink() as client:
        refused: httpx.Response = await client.post("/v1/files", **form)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(param)


async def test_files_and_jobs_are_for_admins() -> None:
    settings = Settings(api_keys="alice", admin_keys="root")
    paths = [
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/x/content"),
        ("DELETE", "/v1/files/x"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/fine_tuning/jobs/x/events"),
        ("POST", "/v1/fine_tuning/alpha/graders/run"),
        ("PUT", "/v1/aliases/x"),
        ("GET", "/v1/aliases"),
        ("DELETE", "/v1/models/x"),
        ("POST", "/v1/distillations"),
        ("GET", "/v1/distillations"),
    ]
    async with outthink(settings=settings) as client:
        for method, path in paths:
            for key, status in (("alice", 403), ("mallory", 401)):
                refused = await client.request(method, path, headers={"Authorization": f"Bearer {key}"})
                assert (refused.status_code, path) == (status, path)
                assert refused.json()["error"]["type"] in ("permission_error", "authentication_error")
        assert (await client.get("/v1/files", headers={"Authorization": "Bearer root"})).status_code == 200
