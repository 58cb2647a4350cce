"""Whether a server answers at all, told within seconds: the Hub's client would try for longer."""

from __future__ import annotations

import threading
import time
from typing import Any

PATIENCE = 4.0  # seconds
REMEMBERED = 60.0  # seconds that an answer is believed
NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ProxyError", "ConnectionError")

_answers: dict[str, tuple[float, bool]] = {}


def answers(url: str) -> bool:
    """Whether a server can be reached, by way of the Hub's client and its proxies.

    Any answer counts, also that it is busy: only a connection that cannot be made does not.
    """
    seen_at, answer = _answers.get(url, (-REMEMBERED, True))
    if time.monotonic() - seen_at < REMEMBERED:
        return answer
    from huggingface_hub.utils import get_session

    session = get_session()
    found: list[bool] = []
    # Looking up a name knows no time limit: so it is done where nobody has to wait for it.
    asking = threading.Thread(target=lambda: found.append(connects(session, url)), daemon=True)
    asking.start()
    asking.join(PATIENCE + 0.5)
    answer = bool(found and found[0])
    _answers[url] = time.monotonic(), answer
    return answer


def connects(session: Any, url: str) -> bool:
    """Whether a request gets through, in one attempt."""
    try:
        session.request("HEAD", url, timeout=PATIENCE)
    except Exception as error:  # of whichever HTTP library is below
        return not any(cls.__name__ in NO_CONNECTION for cls in type(error).__mro__)
    return True
