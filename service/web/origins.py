"""What browsers may do to a server without keys: every page that its user opens can send requests to loopback.

A page of another site cannot read an answer, but what it sends is done all the same, unless `Origin`, which pages
cannot forge, is looked at. A page whose name was made to point at loopback (DNS rebinding) is of the same origin, but
shows it by `Host`. And a body in a type of HTML forms is the only one that a page may send without asking first. Where
there are keys pages do not have one, so nothing is looked at but `Host`, if the settings name hosts.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from service.errors import ApiError
from service.settings import Settings

READING = frozenset({"GET", "HEAD", "OPTIONS"})
UPLOADS = frozenset({"/v1/files"})
"""The paths that take a form."""
FORMS = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
ANY = "*"


class Origins:
    """The rules of one server."""

    def __init__(self, settings: Settings) -> None:
        self.hosts = {host.lower() for host in (*settings.allowed_hosts, settings.host) if host}
        self.any_host = ANY in self.hosts or (settings.keys_needed and not settings.allowed_hosts)
        self.sites = frozenset(settings.cors_origins)
        self.trusts_all = not settings.keys_needed

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Raise ApiError for a request that a page of another site may have sent."""
        if not self.any_host and path != "/health":  # which says nothing, and is asked by address
            self.check_host(headers.getlist("host"))
        if self.trusts_all and method not in READING:
            self.check_site(headers)
            if path not in UPLOADS:
                check_type(headers)

    def check_host(self, hosts: Collection[str]) -> None:
        for host in hosts:
            name = host_name(host)
            if name not in self.hosts and not is_loopback(name):
                message = f"this server does not go by the name {name!r}: set OUTTHINK_ALLOWED_HOSTS if it should"
                raise ApiError(403, message, None, "forbidden_host")

    def check_site(self, headers: Headers) -> None:
        """The browser's own word first; the host that it knows may be a proxy's."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in ("same-origin", "none") or (site is None and origin is None):
            return
        if origin is None or not self.is_ours(origin, headers.get("host", "")):
            raise ApiError(
                403,
                f"a page of another site ({origin or site}) may not do this: set OUTTHINK_CORS_ORIGINS if it should, "
                "or keys",
                None,
                "cross_site_request",
            )

    def is_ours(self, origin: str, host: str) -> bool:
        """Whether the page is of this server, or of a site that the settings name."""
        return urlsplit(origin).netloc == host or bool(self.sites & {origin, ANY})


def check_type(headers: Headers) -> None:
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given in FORMS:
        message = f"the body is JSON: send `Content-Type: application/json`, not {given} (curl: -H 'Content-Type: …')"
        raise ApiError(415, message, None, "unsupported_content_type")


def host_name(host: str) -> str:
    """The name in a `Host`, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host


def is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
