"""Runs one batch to its end, wherever an earlier runner may have left it.

What is done is what is stored: the record says how the batch stands, and the results in FILES which lines have run.
Each line is asked for under a key of its own, so that two runners at once come to one run, and its result is stored
under its number, so that there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from edge.batches import records, results
from edge.batches.asking import CLASS, Generate, ask
from edge.batches.contents import ContentGoneError, Contents
from edge.batches.jsonl import Checker, Line, Lines, Request, read_line
from edge.batches.patience import stubbornly
from edge.batches.records import BatchRecord, FileObject, FileRecord, LineFault, Outcome, Stopped
from edge.batches.results import Result, Tally
from edge.batches.shelf import Shelf
from edge.batches.tries import Tries
from edge.call import Caller
from edge.tracing import Tracing
from infra.logs import get_logger
from schemas.ids import RequestId, TenantKey
from schemas.requests import Klass

FLUSH_S = 0.5
"""How often the counts that clients see move, and how soon a cancel is noticed."""

SLICE_BYTES = 16 << 10
"""Cut into lines in one go: if all of them are blank this takes 20 ms, and every stream of this edge waits for it."""

DISOWNED_S = 3.0
"""How long a key must have been missing: this edge reads the key file once a second, and may be behind the one that
took the batch."""

Absent = Callable[[TenantKey, str, Klass], Caller | None]

_INPUT_GONE = LineFault("input_file_missing", "the input file was deleted, or has expired")
_TOO_OFTEN = LineFault("too_many_runs", "the batch was begun again and again, and never came to its end")
_OUTCOMES: tuple[tuple[Outcome, str], ...] = (("ok", "output"), ("failed", "errors"))

_log = get_logger("batches")


@dataclass(frozen=True)
class Means:
    """What all runs of an edge work with. `generate` and `cancel` are the edge's own; `absent` says who asks for the
    lines, in the name of which key; `line_bytes_max` bounds what goes in, `result_bytes_max` what comes out."""

    generate: Generate
    cancel: Callable[[TenantKey, str], Awaitable[object]]
    absent: Absent
    tracing: Tracing
    contents: Contents
    files: Shelf[FileRecord]
    batches: Shelf[BatchRecord]
    inflight_max: int
    line_bytes_max: int
    result_bytes_max: int


class _InputError(Exception):
    """A line that was good when the file was checked, under other settings, is not any more."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Run:
    """`name` tells this run from all others of the batch; the newest one goes on."""

    def __init__(self, means: Means, record: BatchRecord, name: str) -> None:
        self._means = means
        self._name = name
        self._record = record
        self._id = record.batch.id
        self._tenant = record.tenant
        self._results = f"file-{self._id.removeprefix('batch_')}"
        self._tally = Tally()
        self._running: dict[int, RequestId] = {}
        self._owned_at = asyncio.get_running_loop().time()

    async def run(self) -> bool:
        """Returns when the batch is over: True; or False when another run has taken it."""
        await stubbornly(lambda: self._means.batches.create(self._tenant, self._id, self._record))
        faults: list[LineFault] = []
        over = True
        try:
            await self._change(lambda record: records.taken(record, self._name))
            over = self._record.over or await self._go_on()
        except* ContentGoneError:
            faults.append(_INPUT_GONE)
        except* _InputError as group:
            faults += [error.fault for error in group.exceptions if isinstance(error, _InputError)]
        if faults:
            await self._fail(faults)
        return over

    async def give_up(self) -> None:
        """Ends a batch that was begun too often."""
        await self._fail([_TOO_OFTEN])

    async def _fail(self, faults: list[LineFault]) -> None:
        _log.warning("batch failed", batch=self._id, code=faults[0].code)
        await stubbornly(
            lambda: self._means.batches.change(
                self._tenant, self._id, lambda record: records.failed(record, faults, _now())
            )
        )

    async def _go_on(self) -> bool:
        found = await stubbornly(
            lambda: self._means.files.get(self._tenant, self._record.batch.input_file_id)
        )
        if found is None:
            raise ContentGoneError(self._record.batch.input_file_id)
        self._input = found
        if self._record.batch.status == "validating" and not await self._begin():
            return True
        await self._recount()
        stopped = await self._work()
        if stopped == "superseded":
            return False
        if stopped == "expired":
            await self._pump(self._expire)
        if stopped == "cancelling":
            # A result may have been on its way when its line was stopped.
            await self._recount()
        if stopped == "done":
            await self._change(lambda record: records.finalizing(record, _now()))
        await self._finish()
        _log.info("batch ended", batch=self._id, status=self._record.batch.status)
        return True

    async def _begin(self) -> bool:
        """Whether the input can be run."""
        checker = Checker(self._record.batch.endpoint)
        async for line in self._lines():
            checker.add(line)
            if checker.hopeless:
                break
        checker.finish()
        if checker.faults:
            await self._change(lambda record: records.failed(record, checker.faults, _now()))
        else:
            await self._change(lambda record: records.begun(record, checker.total, _now()))
        return not checker.faults

    async def _recount(self) -> None:
        """Reads which lines have their results already."""
        async for part in self._means.contents.parts(self._tenant, self._results, patient=True):
            assert part.outcome is not None, "only results are stored there"
            self._tally.add(part.number, part.outcome, len(part.data))

    async def _work(self) -> Stopped:
        """Runs what has no result yet."""
        reason = records.reason_to_stop(self._record, self._name, _now())
        if reason is not None:
            return reason
        pump = asyncio.create_task(self._pump(self._ask))
        try:
            while True:
                done, _ = await asyncio.wait([pump], timeout=FLUSH_S)
                await self._flush()
                await self._disown()
                if done:
                    pump.result()
                    return "done"
                reason = records.reason_to_stop(self._record, self._name, _now())
                if reason in ("cancelling", "expired"):
                    await self._stop(pump)
                if reason is not None:
                    return reason
        finally:
            pump.cancel()
            await asyncio.wait([pump])

    def _caller(self) -> Caller | None:
        """Who asks; None: nobody may, at least for now."""
        caller = self._means.absent(self._tenant, self._record.key, CLASS)
        if caller is not None:
            self._owned_at = asyncio.get_running_loop().time()
        return caller

    async def _disown(self) -> None:
        """Cancels it if the key that made it is good no more."""
        now = asyncio.get_running_loop().time()
        if self._caller() is None and now - self._owned_at >= DISOWNED_S:
            _log.info("the key of a batch is not good any more", batch=self._id, key=self._record.key)
            await self._change(lambda record: records.disowned(record, _now()))

    async def _stop(self, pump: asyncio.Task[None]) -> None:
        """No line is asked for any more, and those that run are ended."""
        running = list(self._running.values())
        pump.cancel()
        await asyncio.wait([pump])
        cancels = [partial(self._means.cancel, self._tenant, rid) for rid in running]
        await asyncio.gather(*[stubbornly(cancel) for cancel in cancels])

    async def _pump(self, handle: Callable[[int, Request], Awaitable[None]]) -> None:
        """`handle` for each line that has no result, a bounded number at the same time."""
        places = asyncio.Semaphore(self._means.inflight_max)

        async def one(number: int, request: Request) -> None:
            try:
                await handle(number, request)
            finally:
                places.release()

        async with asyncio.TaskGroup() as tasks:
            async for line in self._lines():
                if line.number in self._tally:
                    continue
                request = read_line(line, self._record.batch.endpoint)
                if isinstance(request, LineFault):
                    raise _InputError(request)
                await places.acquire()
                tasks.create_task(one(line.number, request))

    async def _ask(self, number: int, request: Request) -> None:
        tries = Tries(f"{self._id}-{number}")

        def on_rid(rid: RequestId) -> None:
            self._running[number] = rid

        try:
            while True:
                caller = self._caller()
                if caller is None:
                    await asyncio.sleep(FLUSH_S)
                    continue
                # What the broker refuses to tell costs an HTTP client its request; here it would cost the process.
                answer = await stubbornly(
                    partial(
                        ask,
                        self._means.generate,
                        self._record.batch.endpoint,
                        caller,
                        tries.key,
                        bytes(request.body),
                        on_rid,
                        self._means.tracing,
                    )
                )
                wait_s = tries.judge(answer)
                if wait_s is None:
                    break
                await asyncio.sleep(wait_s)
            await self._store(number, results.answered(self._line_id(number), request.custom_id, answer))
        finally:
            self._running.pop(number, None)

    async def _expire(self, number: int, request: Request) -> None:
        await self._store(
            number, results.unanswered(self._line_id(number), request.custom_id, results.EXPIRED)
        )

    async def _store(self, number: int, result: Result) -> None:
        data = results.encode(result)
        if len(data) > self._means.result_bytes_max:
            result = results.unanswered(result.id, result.custom_id, results.TOO_LARGE)
            data = results.encode(result)
        outcome = result.outcome
        there = await stubbornly(
            lambda: self._means.contents.put(self._tenant, self._results, number, data, outcome)
        )
        assert there.outcome is not None, "only results are stored there"
        self._tally.add(number, there.outcome, len(there.data))

    async def _finish(self) -> None:
        """Its files, and then its end: whoever sees the end can read them."""
        began = self._record.batch.in_progress_at or self._record.batch.created_at
        ids: dict[Outcome, str | None] = {}
        for outcome, word in _OUTCOMES:
            size = self._tally.size(outcome)
            ids[outcome] = f"{self._results}-{word}" if size else None
        for outcome, word in _OUTCOMES:
            file_id = ids[outcome]
            if file_id is None:
                continue
            file = FileObject(
                id=file_id,
                bytes=self._tally.size(outcome),
                created_at=began,
                expires_at=began + self._record.results_ttl_s,
                filename=f"{self._id}_{word}.jsonl",
                purpose="batch_output",
            )
            twin = ids["failed" if outcome == "ok" else "ok"]
            await self._keep(FileRecord(file, self._results, began, outcome, twin, self._tally.bytes))
        await self._flush()
        await self._change(lambda record: records.ended(record, ids["ok"], ids["failed"], _now()))

    async def _keep(self, file: FileRecord) -> None:
        await stubbornly(lambda: self._means.files.put(self._tenant, file.file.id, file))

    async def _flush(self) -> None:
        counts = self._tally.counts(self._record.batch.request_counts.total)
        size = self._tally.bytes
        await self._change(lambda record: records.counted(record, counts, size, self._name))

    async def _change(self, change: Callable[[BatchRecord], BatchRecord]) -> None:
        changed = await stubbornly(lambda: self._means.batches.change(self._tenant, self._id, change))
        if changed is None:
            # It has expired with all that belongs to it.
            raise ContentGoneError(self._id)
        self._record = changed

    async def _lines(self) -> AsyncIterator[Line]:
        lines = Lines(bytes_max=self._means.line_bytes_max)
        file = self._input
        async for part in self._means.contents.parts(
            self._tenant, file.content, size=file.file.bytes, patient=True
        ):
            for at in range(0, len(part.data), SLICE_BYTES):
                for line in lines.feed(part.data[at : at + SLICE_BYTES]):
                    yield line
                # Answers are streamed by the same process.
                await asyncio.sleep(0)
        for line in lines.finish():
            yield line

    def _line_id(self, number: int) -> str:
        return f"batch_req_{self._id.removeprefix('batch_')}-{number}"


def _now() -> int:
    return int(time.time())
