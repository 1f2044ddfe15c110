"""How a process reaches an object store: its address, its limits of time, its credentials.

All of it comes from the environment, as the store's own tools have it (``AWS_*``, ``GOOGLE_*``,
``AZURE_*``), so that nothing of it stands in a configuration or a run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: Seconds in which a connection must be there, in which something must come over it, and for all.
CONNECT_SECONDS = 10
READ_SECONDS = 30
REQUEST_SECONDS = 600

#: For so long the credentials of a profile are used before they are asked for again.
_PROFILE_SECONDS = 600


def connected(url: str, retry: Any) -> ObjectStore:
    """The store of a URL. What the library raises is its own, but for OSErrors of a profile."""
    from obstore.store import from_url

    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    client: Any = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=READ_SECONDS),
        "timeout": timedelta(seconds=REQUEST_SECONDS),
    }
    more: Any = {}
    profile = os.environ.get("AWS_PROFILE")
    if profile and url.startswith("s3://") and not os.environ.get("AWS_ACCESS_KEY_ID"):
        more = _of_profile(profile)
    return from_url(url, client_options=client, retry_config=retry, **more)


def _of_profile(profile: str) -> dict[str, Any]:
    """A named profile of AWS's own files: its region, and what asks for its credentials."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError as error:
        text = f"AWS_PROFILE={profile} wants botocore (pip install .[remote])"
        raise OSError(errno.EACCES, text) from error
    session = Session(profile=profile)
    try:
        credentials = session.get_credentials()
        region = session.get_config_variable("region")
    except BotoCoreError as error:
        raise OSError(errno.EACCES, f"AWS_PROFILE: {error}") from error
    if credentials is None:
        raise OSError(errno.EACCES, f"AWS_PROFILE={profile} has no credentials")
    return {"credential_provider": _asking(credentials), **({"region": region} if region else {})}


def _asking(credentials: Any) -> Callable[[], Any]:
    def ask() -> dict[str, Any]:
        key = credentials.get_frozen_credentials()
        return {
            "access_key_id": key.access_key,
            "secret_access_key": key.secret_key,
            "token": key.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_PROFILE_SECONDS),
        }

    return ask
