"""Credentials in URLs and commands: what is stored, logged or shown never holds them.

A presigned URL or one with a password is a key to somebody's data. It is opened as it was given;
records, keys of shards, messages and logs get what ``shown`` leaves of it.
"""

from __future__ import annotations

import re
from typing import Any

#: What stands where an option's secret was.
HIDDEN = "[hidden]"

#: A URL in a text, without the punctuation that may follow it.
_URL = re.compile(r"(?i)\b[a-z][a-z0-9+.\-]*://[^\s'\"<>\\]*[^\s'\"<>\\.,:;)\]}]")

#: The user and the password of a URL. A secret key of S3 may have slashes, so what follows
#: ``user:`` goes up to the last @, unless it is the number of a port.
_USER = re.compile(r"(?<=://)(?:[^\s/?#:@]*:(?!\d+/)[^\s?#]*|[^\s/?#]*)@")

#: Names of parameters and options whose value is a secret or belongs to a signature, in lower
#: case: Amazon's, Google's and CloudFront's, and what others call their keys.
_SECRET_NAME = re.compile(
    r"x-amz-.*|x-goog-.*|googleaccessid|policy|key-pair-id|expires"
    r"|.*(?:token(?!iz)|secret|signature|passw(?:or)?d|passphrase|credential|authorization).*"
    r"|(?:.*[-_.])?(?:sig|hmac|key|auth|pwd|pass|jwt|session|sessionid|sid)"
    r"|.*(?:api|access|private|account)key(?:id)?"
)

#: Azure's signature; the other parameters beside it belong to it.
_AZURE = frozenset(
    {
        "sig", "sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "si", "sip", "sdd", "skoid",
        "sktid", "skt", "ske", "sks", "skv",
    }
)  # fmt: skip

_OPTION = re.compile(r"--?([A-Za-z][\w\-.]*)(=.*)?", re.DOTALL)


def shown(text: str) -> str:
    """A text without the users, passwords, tokens and signatures of the URLs in it.

    Of a signature nothing is left, so two signed URLs of one file are shown alike.
    """
    return _URL.sub(lambda match: _shown_url(match[0]), text) if "://" in text else text


def _shown_url(url: str) -> str:
    address, mark, query = _USER.sub("", url, count=1).partition("?")
    if not mark:
        return address
    parameters = [(part, part.partition("=")[0].lower()) for part in query.split("&")]
    azure = _AZURE if "sig" in (name for _, name in parameters) else ()
    kept = [part for part, name in parameters if name not in azure and not _is_secret(name)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def shown_settings(value: Any) -> Any:
    """Plain data, such as a configuration, as it may be stored.

    In a list of words, such as a command, the values of options like ``--token`` are hidden, too.
    """
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: shown_settings(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return _shown_words(value)
    return value


def _shown_words(words: list[Any]) -> list[Any]:
    result: list[Any] = []
    hidden_next = False
    for word in words:
        option = _OPTION.fullmatch(word) if isinstance(word, str) else None
        secret = option is not None and _is_secret(option[1].lower())
        if option and secret and option[2]:
            result.append(f"{word[: option.start(2)]}={HIDDEN}")
        else:
            result.append(HIDDEN if hidden_next and not option else shown_settings(word))
        hidden_next = bool(option and secret and not option[2])
    return result
