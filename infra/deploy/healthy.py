"""`healthy <url>` or `healthy <file>`: the health check of a container; exit code 0 or 1, and why on stdout.

A URL must answer 200. A file must have been touched lately: a role's event loop does it, so that a process that hangs
is seen too. Stands alone, so that it starts in 50 ms.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
import urllib.error
import urllib.request

TIMEOUT_S = 3.0
AGE_S_MAX = 15.0
"""Seven times the interval at which a role touches its file."""

DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Not by `http_proxy`, which Docker sets in containers where its client has one: a proxy's loopback is not ours."""


def complaint(target: str) -> str:
    """What is wrong; empty if nothing is."""
    return _of_url(target) if "://" in target else _of_file(target)


def _of_url(url: str) -> str:
    try:
        with DIRECTLY.open(url, timeout=TIMEOUT_S) as answer:
            return "" if answer.status == 200 else f"{url} answers {answer.status}"
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {error}"


def _of_file(path: str) -> str:
    try:
        age_s = time.time() - os.stat(path).st_mtime
    except OSError as error:
        return f"not ready: {error}"
    return "" if age_s < AGE_S_MAX else f"no sign of life for {age_s:.0f} s"


if __name__ == "__main__":
    said = complaint(sys.argv[1])
    print(said or "healthy")
    sys.exit(1 if said else 0)
