"""The page of one process: its families of series, as text or as OpenMetrics, and as a message for who merges pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Timestamp

from infra.metrics import process
from infra.metrics.tables import Table

Beside = Callable[[], Awaitable[list[Metric]]]
"""Families that are somebody else's, such as an engine's."""


class Page:
    """What a process of `role` shows. `refresh` is called before each look, to set what is known and not counted;
    `connected`: whether the broker is reached."""

    def __init__(
        self,
        role: str,
        table: Table,
        connected: Callable[[], bool],
        *,
        refresh: Callable[[], None] = lambda: None,
        beside: Beside | None = None,
    ) -> None:
        self._refresh = refresh
        self._beside = beside
        self._registry = CollectorRegistry()
        process.register(self._registry, role, connected)
        table.register(self._registry)

    async def families(self) -> list[Metric]:
        """All of it, as it stands."""
        self._refresh()
        own = [_without_births(family) for family in self._registry.collect()]
        return own if self._beside is None else merged([own, await self._beside()])

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, for who accepts `accept`."""
        return await show(await self.families(), accept)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def show(families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """Like `render`, in a thread: a page of many models takes tens of milliseconds, and tokens do not wait for it."""
    return await asyncio.to_thread(render, families, accept)


def render(families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """A page of `families` and its content type, for who accepts `accept`."""
    encode, content_type = choose_encoder(accept)
    return encode(_Families(families)), content_type


def merged(pages: Iterable[Iterable[Metric]]) -> list[Metric]:
    """One page of several: a family of two of them appears once. Series must differ."""
    families: dict[str, Metric] = {}
    for page in pages:
        for family in page:
            known = families.setdefault(family.name, family)
            # Two versions may mean different things by a name, and a page with both of them would be none.
            if known is not family and known.type == family.type:
                known.samples = [*known.samples, *family.samples]
    return list(families.values())


def labelled(families: Iterable[Metric], labels: Mapping[str, str]) -> list[Metric]:
    """`families` with `labels` on every series."""
    for family in families:
        family.samples = [
            sample._replace(labels={**sample.labels, **labels})  # a label of that name is ours
            for sample in family.samples
        ]
    return list(families)


class _Exemplar(msgspec.Struct, array_like=True):
    labels: dict[str, str]
    value: float
    timestamp: float | None


class _Sample(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]
    value: float
    exemplar: _Exemplar | None


class _Family(msgspec.Struct, array_like=True):
    name: str
    meaning: str
    type: str
    samples: list[_Sample]


_decoder = msgspec.msgpack.Decoder(list[_Family])


def pack(families: Iterable[Metric]) -> bytes:
    """Families as a message. Text would have to be parsed, at fifty times the price, in an edge's only event loop."""
    return msgspec.msgpack.encode(
        [
            _Family(
                family.name,
                family.documentation,
                family.type,
                [
                    _Sample(
                        sample.name,
                        dict(sample.labels),
                        float(sample.value),
                        _exemplar(sample.exemplar),
                    )
                    for sample in family.samples
                ],
            )
            for family in families
        ]
    )


def _exemplar(shown: Exemplar | None) -> _Exemplar | None:
    return None if shown is None else _Exemplar(dict(shown.labels), shown.value, _seconds(shown.timestamp))


def _seconds(at: Timestamp | float | None) -> float | None:
    return None if at is None else float(at)


def unpack(data: bytes) -> list[Metric]:
    """Reads `pack`. Raises msgspec.DecodeError for anything else, ValueError for a name that is none."""
    families = []
    for told in _decoder.decode(data):
        family = Metric(told.name, told.meaning, told.type)
        for sample in told.samples:
            exemplar = sample.exemplar
            shown = (
                None if exemplar is None else Exemplar(exemplar.labels, exemplar.value, exemplar.timestamp)
            )
            family.add_sample(sample.name, sample.labels, sample.value, exemplar=shown)
        families.append(family)
    return families


def _without_births(family: Metric) -> Metric:
    """Leaves out when each series began: a third of a page that nobody reads."""
    family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return family
