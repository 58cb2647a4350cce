"""Secrets stay where they are: whatever a person, a file or a machine reads has *** in their place.

A secret is a token or key that the environment or the Hub's client holds, anything that looks like
a token of the Hub, the name and password within an address, and what signs a request in it.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "TRACKIO_WRITE_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
ADDRESSES = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WANDB_BASE_URL")
SHORTEST = 6  # characters of a secret: less than that is a word that may well be somewhere else
IN_ADDRESS = re.compile(r"(?<=://)[^\s/\"'`<>]+(?=@)")
# What signs or opens an address, among the values after its `?`: as it is, in HTML and in JSON.
IN_QUERY = re.compile(
    r"(?:(?<=[?&])|(?<=&amp;)|(?<=\\u0026))"
    r"([\w.-]{0,40}(?:sig|signature|token|secret|password|passwd|pwd|credential|api[_-]?key"
    r"|access[_-]?key(?:[_-]?id)?|key-pair-id|policy|auth|authorization|key)=)"
    r"[^\s&#;\"'`<>\\]+",
    re.IGNORECASE,
)
# A whole token of the Hub is known behind any letter, one that was cut short where a word begins.
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|hf_[A-Za-z0-9]{20,}")


def without_secrets(text: str) -> str:
    """A text to be shown or kept, without anything that opens a door."""
    for secret in known_secrets():
        text = text.replace(secret, HIDDEN)
    text = IN_QUERY.sub(rf"\1{HIDDEN}", IN_ADDRESS.sub(HIDDEN, text))
    return TOKEN.sub(HIDDEN, text)


def known_secrets() -> list[str]:
    """Those that this process could use, the longest first."""
    found = {os.environ.get(name, "").strip() for name in VARIABLES} | {stored_token()}
    for name in ADDRESSES:
        found |= secrets_in(os.environ.get(name, "") or os.environ.get(name.lower(), ""))
    return sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True)


def secrets_in(address: str) -> set[str]:
    """The password of an address: as it is, and as a request carries it with the name."""
    match = IN_ADDRESS.search(address)
    if match is None:
        return set()
    name, _, password = unquote(match.group()).partition(":")
    return {password, base64.b64encode(f"{name}:{password}".encode()).decode()}


def stored_token() -> str:
    """The token that `hf auth login` left; where its client was never imported, nobody read it."""
    client = sys.modules.get("huggingface_hub")
    try:
        return (client.get_token() or "").strip() if client else ""
    except Exception:  # a login that cannot be read cannot be shown either
        return ""


@contextmanager
def keeping_secrets(clean: Callable[[str], str] = without_secrets) -> Iterator[None]:
    """Take secrets out of all that a program still says by itself: its logs and its last words.

    `clean` may take out more than those.
    """
    make = logging.getLogRecordFactory()

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = clean(record.getMessage()), ()
        except (TypeError, ValueError):  # it does not fit its arguments: logging says so itself
            return record
        if record.exc_info and record.exc_info[1]:
            record.exc_text = clean(told(record.exc_info[1]))
        return record

    logging.setLogRecordFactory(made)
    try:
        yield
    except Exception as error:  # ours, or asked for by DIMO_DEBUG=1
        sys.stderr.write(clean(told(error)))
        sys.exit(1)
    finally:
        logging.setLogRecordFactory(make)


def told(error: BaseException) -> str:
    """A traceback as Python writes it, without secrets."""
    return without_secrets("".join(traceback.format_exception(error)))
