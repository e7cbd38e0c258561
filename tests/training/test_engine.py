"""Where a trainer finds the engine of its model."""

from __future__ import annotations

import pytest

from service.settings import Settings
from training.engine import through_service


@pytest.mark.parametrize(
    ("fields", "url", "key"),
    [
        ({}, "http://127.0.0.1:8000", ""),
        ({"port": 9000, "api_keys": "a,b"}, "http://127.0.0.1:9000", "a"),
        ({"host": "0.0.0.0", "api_keys": "a", "admin_keys": "c"}, "http://127.0.0.1:8000", "c"),
        ({"host": "10.0.0.7", "api_keys": "a"}, "http://10.0.0.7:8000", "a"),
        ({"service_url": "http://gpu-7:8000/v1", "api_keys": "a"}, "http://gpu-7:8000", "a"),
    ],
)
def test_a_model_with_weights_of_its_own_is_asked_through_the_service(
    fields: dict[str, str], url: str, key: str
) -> None:
    settings = through_service(Settings.model_validate(fields))
    assert (settings.engine_base, settings.engine_api_key.get_secret_value()) == (url, key)
