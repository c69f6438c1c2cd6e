"""The output of supervised children: passed on line by line, each with its author.

On a terminal every line gets a coloured prefix. Off one the roles' lines are JSON already and name their
author, so they pass unchanged, and nats-server's are turned into such lines. Its chatter at info level is
only shown at debug.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys

from infra.logs import get_logger

LINE_BYTES_MAX = 256 * 1024  # a longer line is cut in two; memory stays bounded whatever a child prints
READ_BYTES = 64 * 1024

_COLOURS = (36, 32, 35, 33, 34, 96, 92, 95, 93, 94)
_NATS_LINE = re.compile(rb"\[\d+\] \S+ \S+ \[(?P<level>[A-Z]{3})\] (?P<text>.*)")
_NATS_LEVELS = {b"WRN": logging.WARNING, b"ERR": logging.ERROR, b"FTL": logging.CRITICAL}

nats_log = get_logger("nats-server")


class ChildLogs:
    """Where the lines of all children come together."""

    def __init__(self, names: list[str], *, pretty: bool) -> None:
        width = max((len(name) for name in names), default=0)
        self._pretty = pretty
        self._prefixes = {
            name: f"\x1b[{_COLOURS[index % len(_COLOURS)]}m{name:{width}} │\x1b[0m ".encode()
            for index, name in enumerate(names)
        }
        self._last_lines = dict.fromkeys(names, b"")

    async def pump(self, name: str, output: asyncio.StreamReader) -> None:
        """Passes on the lines of one child until its output ends."""
        rest = b""
        while chunk := await output.read(READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._pass_on(name, line)
        if rest:
            self._pass_on(name, rest)

    def last_line(self, name: str) -> str:
        """The last thing a child said: why it gave up."""
        return self._last_lines[name].decode(errors="replace")

    def _pass_on(self, name: str, line: bytes) -> None:
        if not line.strip():
            return
        self._last_lines[name] = line
        if match := _NATS_LINE.fullmatch(line):
            level = _NATS_LEVELS.get(match["level"], logging.DEBUG)
            nats_log.log(level, match["text"].decode(errors="replace"), role="broker", id=name)
            return
        sys.stderr.buffer.write((self._prefixes[name] if self._pretty else b"") + line + b"\n")
        sys.stderr.buffer.flush()
