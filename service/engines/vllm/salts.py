"""Salts of vLLM's prefix cache, one for every key: what is found in the cache is one's own.

vLLM keeps the blocks of all prompts, and one that begins like an earlier one is answered sooner, and says so in
`cached_tokens`: a client could find out, block by block, what others have sent. `cache_salt` goes into the hash of the
first block, and so of all.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.engines.secret_files import read_secret
from service.settings import Settings

FILE = "cache.key"


@dataclass(frozen=True, slots=True)
class Salts:
    """Salts by the name of the account. `secret` is never sent; empty where all share the cache."""

    secret: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)

    def salt(self, account: str, own: str | None = None) -> str:
        """The salt of an account, with the one that its request sends itself; empty for none.

        A key's salt hangs on the key, not on its place in the settings.
        """
        if not self.secret:
            return own or ""
        who = f"key {self.keys[account]}" if account in self.keys else f"account {account}"
        salt = keyed_hash(self.secret, who)
        return salt if own is None else keyed_hash(salt, own)


def keyed_hash(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def read_salts(settings: Settings) -> Salts:
    """The salts of the settings' keys; none without keys, and none where the settings let all share the cache."""
    if not settings.keys_needed or settings.shared_prefix_cache:
        return Salts()
    names, keys = (*settings.client_names, *settings.admin_names), (*settings.api_keys, *settings.admin_keys)
    by_name = {name: key.get_secret_value() for name, key in zip(names, keys, strict=True)}
    return Salts(read_secret(settings.data_dir.absolute(), FILE), by_name)
