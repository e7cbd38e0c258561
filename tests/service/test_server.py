"""Keys, models, strategies, documentation, metrics, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.engines.scripted import ScriptedEngine
from service.settings import Settings, load
from strategies import STRATEGIES
from tests.conftest import chat, outthink

KEYS = {"api_keys": "alice,bob", "admin_keys": "root"}


def said(prompt: str, branch: int) -> str:
    return "\\boxed{1}"


async def test_every_endpoint_but_the_public_ones_wants_a_key() -> None:
    async with outthink(ScriptedEngine(said), settings=Settings(**KEYS)) as client:  # type: ignore[arg-type]
        for path in ("/v1/models", "/v1/models/smollm2", "/v1/strategies"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 401
        for path in ("/", "/metrics", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"):
            assert (await client.get(path)).status_code == 401
        for path in ("/health", "/ready"):
            assert (await client.get(path)).status_code == 200
        for key in ("alice", "bob", "root"):
            reply = await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert reply.status_code == 200
        wrong = await client.get("/v1/models", headers={"Authorization": "Bearer mallory-secret"})
    error = wrong.json()["error"]
    assert (wrong.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert "mallory" not in wrong.text


async def test_what_is_said_of_the_server_needs_a_key_and_the_metrics_an_admins() -> None:
    async with outthink(ScriptedEngine(said), settings=Settings(**KEYS)) as client:  # type: ignore[arg-type]
        statuses = {
            key: [(await client.get(path, headers=bearer(key))).status_code for path in ("/docs", "/metrics")]
            for key in ("alice", "root", "mallory")
        }
        details = {key: (await client.get("/ready", headers=bearer(key))).json() for key in ("alice", "mallory")}
        refusal = (await client.get("/metrics", headers=bearer("alice"))).json()["error"]
    assert statuses == {"alice": [200, 403], "root": [200, 200], "mallory": [401, 401]}
    assert refusal["code"] == "admin_key_needed"
    assert details["alice"].keys() == {"status", "model", "scorers", "checkpoints"}
    assert details["mallory"] == {"status": "ready"}


async def test_a_server_that_is_not_ready_says_no_more_than_that_without_a_key() -> None:
    engine: dict[str, Any] = {"engine_url": "http://127.0.0.1:9/v1", "model_name": "m", "retries": 0}
    async with outthink(settings=Settings.model_validate(KEYS | engine)) as client:
        bare, full = await client.get("/ready"), await client.get("/ready", headers=bearer("bob"))
    assert bare.status_code == full.status_code == 503
    assert bare.json()["error"]["message"] == "the engine is not ready"
    assert full.json()["error"]["message"].startswith("the engine is not ready: ")


async def test_the_settings_open_what_is_said_of_the_server() -> None:
    opened = Settings(**KEYS, open_endpoints=("docs", "metrics", "ready"))  # type: ignore[arg-type]
    async with outthink(ScriptedEngine(said), settings=opened) as client:
        for path in ("/", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/metrics"):
            assert (await client.get(path, follow_redirects=True)).status_code == 200
            assert (await client.get(path, headers=bearer("alice"), follow_redirects=True)).status_code == 200
        assert (await client.get("/ready")).json()["model"] == "smollm2"
        assert (await client.get("/docsx")).status_code == 401


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_models_lists_every_name_that_can_be_sent() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        listed = (await client.get("/v1/models")).json()
        names = [model["id"] for model in listed["data"]]
        assert {"smollm2", "smollm2@self_consistency", "smollm2@best_of_16", "smollm2@chain_of_thought"} <= set(names)
        for name in names:
            found = (await client.get(f"/v1/models/{name}")).json()
            assert (found["id"], found["object"]) == (name, "model")
        assert (await client.get("/v1/models/nope")).status_code == 404


async def test_names_with_slashes_are_routed() -> None:
    async with outthink(ScriptedEngine(said), settings=Settings(model_name="Qwen/Qwen2.5")) as client:
        for name in ("Qwen/Qwen2.5", "Qwen%2FQwen2.5@sc"):
            assert (await client.get(f"/v1/models/{name}")).status_code == 200


async def test_strategies_describe_what_validates_them() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        listed = (await client.get("/v1/strategies")).json()
    by_type = {entry["type"]: entry for entry in listed["data"]}
    assert by_type.keys() == STRATEGIES.keys()
    samples = by_type["self_consistency"]["parameters"]["properties"]["samples"]
    assert (samples["minimum"], samples["maximum"], samples["default"]) == (1, 1024, 16)
    assert all(entry["paper"].startswith("https://arxiv.org/") and entry["cost"] for entry in listed["data"])


async def test_documentation_needs_no_other_host() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        page = (await client.get("/docs")).text
        assert "http://" not in page
        assert "https://" not in page
        assert (await client.get("/docs/assets/swagger-ui-bundle.js")).status_code == 200
        assert "/v1/chat/completions" in (await client.get("/openapi.json")).json()["paths"]
        assert (await client.get("/", follow_redirects=True)).status_code == 200


async def test_unknown_paths_and_methods_answer_in_openais_shape() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        for reply in (await client.get("/v1/nothing"), await client.get("/v1/chat/completions")):
            assert reply.status_code in (404, 405)
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_request_ids_are_returned_and_dangerous_ones_replaced() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        kept = await client.get("/health", headers={"X-Request-Id": "my-id.7"})
        replaced = await client.get("/health", headers={"X-Request-Id": "a b<script>"})
    assert kept.headers["x-request-id"] == "my-id.7"
    assert len(replaced.headers["x-request-id"]) == 32


async def test_metrics_tell_tokens_by_role_and_fate() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 4})
        await client.post("/v1/chat/completions", json=body)
        text = (await client.get("/metrics")).text
    assert 'outthink_tokens_total{fate="returned",role="policy",strategy="self_consistency"} 1.0' in text
    assert 'outthink_tokens_total{fate="discarded",role="policy",strategy="self_consistency"} 3.0' in text
    assert 'outthink_samples_total{outcome="complete",strategy="self_consistency"} 4.0' in text
    assert 'outthink_requests_total{route="/v1/chat/completions",status="200",strategy="self_consistency"} 1.0' in text
    assert "outthink_engine_up 1.0" in text
    assert 'outthink_first_byte_seconds_count{strategy="self_consistency"} 1.0' in text


async def test_cors_is_off_unless_set() -> None:
    origin = {"Origin": "https://app.example"}
    async with outthink(ScriptedEngine(said)) as client:
        assert "access-control-allow-origin" not in (await client.get("/health", headers=origin)).headers
    async with outthink(ScriptedEngine(said), settings=Settings(cors_origins=("https://app.example",))) as client:
        allowed = await client.get("/health", headers=origin)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OUTTHINK_PORT", "http", "valid integer"),
        ("OUTTHINK_ENGINE_URL", "localhost:8000", "http://"),
        ("OUTTHINK_HOST", "0.0.0.0", "OUTTHINK_API_KEYS"),
        ("OUTTHINK_ENGIN_URL", "x", "is no setting"),
        ("OUTTHINK_LOG_LEVEL", "loud", "pattern"),
        ("OUTTHINK_CONFIG", "/nowhere.toml", "no file"),
        ("OUTTHINK_OPEN_ENDPOINTS", "docs,everything", "'docs', 'metrics' or 'ready'"),
    ],
)
def test_a_wrong_setting_stops_the_start(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        load()


def test_settings_come_from_the_environment_then_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "outthink.toml"
    file.write_text('port = 9000\nmax_samples = 8\n[presets.two.strategy]\ntype = "best_of_n"\nsamples = 2\n')
    monkeypatch.setenv("OUTTHINK_CONFIG", str(file))
    monkeypatch.setenv("OUTTHINK_PORT", "9001")
    monkeypatch.setenv("OUTTHINK_API_KEYS", "a, b")
    settings = load()
    assert (settings.port, settings.max_samples, settings.bind) == (9001, 8, "0.0.0.0")
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
    assert "a" not in repr(settings.api_keys)


def test_a_preset_that_makes_no_sense_stops_the_start() -> None:
    from service.app import create_app

    for table in ({"strategy": "nope"}, {"strategy": {"type": "best_of_n", "samples": 0}}, {"samples": 3}):
        with pytest.raises(ValueError, match=r"presets\.mine"):
            create_app(Settings(presets={"mine": table}))
    with pytest.raises(ValueError, match="OUTTHINK_DEFAULT_STRATEGY"):
        create_app(Settings(default_strategy="nope"))


def test_the_table_of_settings_is_up_to_date() -> None:
    table = Path(__file__).parents[2].joinpath("docs", "settings.md").read_text()
    for name, setting in Settings.model_fields.items():
        assert f"| `OUTTHINK_{name.upper()}` |" in table
        assert f"| {setting.description} |" in table


def test_frozen_settings_cannot_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


async def test_no_name_is_no_model() -> None:
    async with outthink(ScriptedEngine(said), settings=Settings(model_name="m")) as client:
        reply = await client.get("/v1/models/")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
