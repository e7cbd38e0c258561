"""Seeds of branches.

vLLM gives sample i of a request the seed + i, so two requests with near seeds would share most of their samples. Seeds
are therefore hashed apart: the same base and path always give the same seed, different ones never near ones.
"""

from hashlib import blake2b


def derive(base: int | None, *path: int | str) -> int | None:
    """Return the seed of a branch, in [0, 2**62); None stays None, as a request without a seed is not repeatable."""
    if base is None:
        return None
    digest = blake2b(repr((base, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
