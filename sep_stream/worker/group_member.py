"""A stage's membership in its consumer group, on the event loop: hands fetches over, and commits what was acknowledged
in order."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog

from sep_stream.errors import SepError
from sep_stream.runtime.settings import Settings
from sep_stream.worker.batches import Batch, Fetched, Place
from sep_stream.worker.failpoints import reach
from sep_stream.worker.group_reader import GroupReader
from sep_stream.worker.ledger import Ledgers
from sep_stream.worker.progress import OwnWord

COMMIT_INTERVAL_S: Final = 1.0
GIVE_UP_S_MAX: Final = 5.0
"""What was fetched of a partition that another member gets may take so long to be acknowledged: it is committed then.
What is left is dropped, and handled again there."""
SAVE_S_MAX: Final = 3.0
"""Bound on the last snapshots of partitions that are given up; without them a restart reads more again."""
_ANSWER_S_MAX: Final = GIVE_UP_S_MAX + SAVE_S_MAX + 2.0

log = structlog.get_logger(__name__)


class GroupMember:
    """Reads a stage's topics and commits for it. To be made, started and ended on one event loop.

    fail: called with what ends the process · lost_input_remedy: what to do where the log no longer holds what the group
    has to handle · count: called with the name of each error that passed
    """

    def __init__(
        self,
        settings: Settings,
        stage: str,
        topics: Sequence[str],
        fail: Callable[[BaseException], None],
        lost_input_remedy: str,
        count: Callable[[str], object],
    ) -> None:
        self.stage = stage
        self._fail, self._count = fail, count
        self._hand_over: Callable[[Fetched], None]
        self._ledgers = Ledgers()
        self._reader = GroupReader(settings, settings.prefix + stage, topics, self, lost_input_remedy)
        self._loop: asyncio.AbstractEventLoop
        self._acknowledged = asyncio.Event()
        self._committing: asyncio.Task[None] | None = None
        self._broken = False
        self._signs_of_life = 0
        self.save: Callable[[Mapping[Place, tuple[int, int]]], Coroutine[Any, Any, None]] | None = None
        """Sends last snapshots, before partitions are given up: by partition its epoch, and the offset below which all
        outputs are acknowledged."""

    async def start(self, hand_over: Callable[[Fetched], None]) -> None:
        """hand_over: called with each fetch, in order"""
        self._hand_over, self._loop = hand_over, asyncio.get_running_loop()
        self._reader.start()
        self._committing = asyncio.create_task(self._commit_regularly())

    async def end(self) -> None:
        """Finish what was fetched within GIVE_UP_S_MAX, commit it and leave the group."""
        if self._committing is not None:
            self._committing.cancel()
        await asyncio.to_thread(self._reader.end)

    def is_current(self, batch: Batch) -> bool:
        """Is the batch of the partition's present assignment?"""
        return self._reader.epoch(batch.place) == batch.epoch

    def acknowledge(self, fetched: Fetched) -> None:
        """The broker has all that came of a fetch: its offsets may be committed."""
        fetched.acked = True
        self._reader.make_room()
        self._acknowledged.set()

    def alive(self) -> None:
        """The work on what was fetched goes on, though nothing of it is done yet."""
        self._signs_of_life += 1

    def own_word(self) -> OwnWord:
        """Any thread may ask."""
        assigned = self._reader.assigned()
        return OwnWord(
            self._reader.group,
            self._reader.member_id,
            {place: position.offset for place, position in assigned.items()},
            frozenset(p for p, (epoch, _, fetches) in assigned.items() if self._ledgers.is_behind(p, epoch, fetches)),
            self._signs_of_life,
        )

    async def commit(self) -> None:
        """Commit what was acknowledged since the last commit that succeeded."""
        due = self._due(list(self._ledgers))
        if not due:
            return
        ledgers = self._ledgers.of(due)
        reach(f"{self.stage}.before_commit")
        offsets = {place: (ledgers[place].epoch, offset) for place, offset in due.items()}
        done = await asyncio.wrap_future(self._reader.commit(offsets))
        reach(f"{self.stage}.after_commit")
        for place in done:
            ledgers[place].committed = due[place]

    async def _commit_regularly(self) -> None:
        while not self._broken:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self.commit()

    def _due(self, places: Sequence[Place]) -> dict[Place, int]:
        """Offsets that may be committed and are not. None after a failure: nobody may go on behind it."""
        if self._broken:
            return {}
        offsets = {place: self._ledgers.to_commit(place, self._reader.epoch(place)) for place in places}
        return {place: offset for place, offset in offsets.items() if offset is not None}

    def _arrive(self, fetched: Fetched) -> None:
        """Hand a fetch over, less the batches whose epoch has passed since."""
        try:
            kept = Fetched(tuple(batch for batch in fetched.batches if self.is_current(batch)))
            if not kept.batches:
                self._reader.make_room()
                return
            self._ledgers.add(kept)
            self._hand_over(kept)
        except SepError as error:
            self._end_with(error)

    def _end_with(self, error: BaseException) -> None:
        """Commit nothing more, and let nobody wait."""
        self._broken = True
        self._acknowledged.set()
        self._fail(error)

    async def _finish(self, places: Sequence[Place]) -> dict[Place, int]:
        """Wait until what was fetched of these partitions is acknowledged, or the time for it is up."""
        deadline_s = self._loop.time() + GIVE_UP_S_MAX
        while not self._broken and self._ledgers.pending(places) and (left_s := deadline_s - self._loop.time()) > 0:
            self._acknowledged.clear()
            try:
                await asyncio.wait_for(self._acknowledged.wait(), left_s)
            except TimeoutError:
                self._count("fetches_given_up")
        await self._save_states(places)
        due = self._due(places)
        self._reader.forget(places)  # in one turn of the loop with the offsets: nothing later counts
        self._ledgers.drop(places)
        return due

    async def _save_states(self, places: Sequence[Place]) -> None:
        """Leave snapshots behind. One that can't be sent costs time at the next start, no more."""
        handled = self._ledgers.finished(places)
        handled = {place: at for place, at in handled.items() if self._reader.epoch(place) == at[0]}
        if self.save is None or self._broken or not handled:
            return
        try:
            async with asyncio.timeout(SAVE_S_MAX):
                await self.save(handled)
        except (TimeoutError, SepError) as error:
            log.warning("last snapshots were not sent; a restart reads more again", stage=self.stage, cause=str(error))

    # Called by the reader, on its own thread.

    def deliver(self, fetched: Fetched) -> None:
        self._loop.call_soon_threadsafe(self._arrive, fetched)

    def give_up(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """The offsets to commit; none if the loop does not answer: it stands still, or has ended."""
        finishing = self._finish(places)
        try:
            return asyncio.run_coroutine_threadsafe(finishing, self._loop).result(_ANSWER_S_MAX)
        except (TimeoutError, concurrent.futures.CancelledError):
            return {}
        except RuntimeError:  # the loop is closed
            finishing.close()
            return {}

    def note(self, what: str) -> None:
        self._loop.call_soon_threadsafe(self._count, what)

    def fail(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._end_with, error)
