"""Everything that can happen to the counts, and everything they can ask for. A `ticket` numbers who wants to enter."""

from __future__ import annotations

import msgspec


class Enter(msgspec.Struct, frozen=True):
    """Somebody wants to be counted under `key`, if no more than `bound` are then. Tickets only grow."""

    ticket: int
    key: str
    bound: int


class Withdraw(msgspec.Struct, frozen=True):
    """Whoever has this ticket waits no more."""

    ticket: int


class Leave(msgspec.Struct, frozen=True):
    """One that was admitted under `key` counts no more."""

    key: str


class WasRead(msgspec.Struct, frozen=True):
    """The value of `key` and its revision; None and 0: it has none."""

    key: str
    value: bytes | None
    revision: int


class Written(msgspec.Struct, frozen=True):
    """The value was stored with `revision`; None: somebody was faster, and nothing was."""

    key: str
    revision: int | None


class Failed(msgspec.Struct, frozen=True):
    """The broker did not answer: what became of the call for `key` is not known."""

    key: str


class Heard(msgspec.Struct, frozen=True):
    """An edge's heartbeat, this edge's own ones too."""

    edge: str


class Connected(msgspec.Struct, frozen=True):
    """The connection to the broker came or went."""

    connected: bool


class Tick(msgspec.Struct, frozen=True):
    """The deadline the core named has come."""


Event = Enter | Withdraw | Leave | WasRead | Written | Failed | Heard | Connected | Tick


class Read(msgspec.Struct, frozen=True):
    """Read the value of `key`; say WasRead or Failed."""

    key: str


class Write(msgspec.Struct, frozen=True):
    """Set `key` if its revision is still `revision` (0: it has no value); say Written or Failed."""

    key: str
    value: bytes
    revision: int


class Admit(msgspec.Struct, frozen=True):
    """Counted; a Leave must follow some time."""

    ticket: int


class Refuse(msgspec.Struct, frozen=True):
    """As many as may be are counted already."""

    ticket: int


class GiveUp(msgspec.Struct, frozen=True):
    """The broker did not say in time how many there are, or too many wait for it."""

    ticket: int


Action = Read | Write | Admit | Refuse | GiveUp
