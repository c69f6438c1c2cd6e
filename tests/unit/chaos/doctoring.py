"""Ways to change one thing in a history."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from chaos.real.history import Line, Stored
from schemas import subjects
from schemas.output import CtlRecord, Tok, decode_ctl, decode_tok, encode
from schemas.streams import OUTPUT

Doctor = Callable[[list[Line]], list[Line]]
Which = Callable[[Line], bool]


def changed(which: Which, **fields: object) -> Doctor:
    """The first line that is meant has other fields."""

    def doctor(lines: list[Line]) -> list[Line]:
        place = _first(lines, which)
        return [*lines[:place], msgspec.structs.replace(lines[place], **fields), *lines[place + 1 :]]

    return doctor


def left_out(which: Which) -> Doctor:
    """The first line that is meant is not there."""

    def doctor(lines: list[Line]) -> list[Line]:
        place = _first(lines, which)
        return [*lines[:place], *lines[place + 1 :]]

    return doctor


def all_left_out(which: Which) -> Doctor:
    """No line that is meant is there."""

    def doctor(lines: list[Line]) -> list[Line]:
        _first(lines, which)
        return [line for line in lines if not which(line)]

    return doctor


def added(after: Which, make: Callable[[Line], Line]) -> Doctor:
    """One more line, after the first that is meant."""

    def doctor(lines: list[Line]) -> list[Line]:
        place = _first(lines, after)
        return [*lines[: place + 1], make(lines[place]), *lines[place + 1 :]]

    return doctor


def rewritten(rid: str, kind: type[CtlRecord | Tok], nth: int = 0, **fields: object) -> Doctor:
    """The nth record of that kind in a log says something else."""

    def doctor(lines: list[Line]) -> list[Line]:
        place, stored, record = list(_records(lines, rid, kind))[nth]
        raw = msgspec.Raw(encode(msgspec.structs.replace(record, **fields)))
        return [*lines[:place], msgspec.structs.replace(stored, record=raw), *lines[place + 1 :]]

    return doctor


def repeated(
    rid: str, kind: type[CtlRecord | Tok], nth: int = 0, *, late_s: float = 0.001, **fields: object
) -> Doctor:
    """The nth record of that kind is stored once more, at the end of the log, `late_s` after
    what is there, perhaps with other fields."""

    def doctor(lines: list[Line]) -> list[Line]:
        _, stored, record = list(_records(lines, rid, kind))[nth]
        raw = msgspec.Raw(encode(msgspec.structs.replace(record, **fields)))
        places = [
            place
            for place, line in enumerate(lines)
            if isinstance(line, Stored) and line.stream == OUTPUT and rid in line.subject
        ]
        last = lines[places[-1]]
        assert isinstance(last, Stored)
        again = msgspec.structs.replace(
            stored, at=last.at + late_s, stored_at=last.at + late_s, seq=last.seq + 1_000, record=raw
        )
        return [*lines[: places[-1] + 1], again, *lines[places[-1] + 1 :]]

    return doctor


def _records(
    lines: list[Line], rid: str, kind: type[CtlRecord | Tok]
) -> Iterator[tuple[int, Stored, CtlRecord | Tok]]:
    for place, line in enumerate(lines):
        if isinstance(line, Stored) and line.stream == OUTPUT and rid in line.subject:
            decode = decode_ctl if subjects.is_ctl(line.subject) else decode_tok
            record = decode(bytes(line.record))
            if isinstance(record, kind):
                yield place, line, record


def _first(lines: list[Line], which: Which) -> int:
    return next(place for place, line in enumerate(lines) if which(line))
