"""Publishing in the background: a training goes on while its checkpoint is written."""

import threading
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from artifact_pipelines.registry.reading import Artifact

PENDING_BYTES = 2**31
"""How many bytes of checkpoints may wait; one that is larger waits alone."""


_SPARE_SHARE = 2  # how many times its size a checkpoint may take


class Buffers:
    """The memory of checkpoints that were registered, for those that come.

    A fresh buffer costs a page fault for each page that is written first, which a training
    would wait for at every checkpoint.
    """

    def __init__(self, limit: int = PENDING_BYTES) -> None:
        """Begin with none; at most so many bytes are kept, as many as may wait."""
        # Reentrant: a collection of garbage may give memory back while some is taken.
        self._lock = threading.RLock()
        self._spares: list[NDArray[Any]] = []
        self._limit = limit
        self._closed = False

    def take(self, size: int) -> "NDArray[Any]":
        """Return bytes to fill, whose memory comes back once nothing refers to them."""
        import numpy as np

        with self._lock:
            fitting = [one for one in self._spares if size <= one.size <= size * _SPARE_SHARE]
            memory = min(fitting, key=lambda one: one.size, default=None)
            self._spares = [one for one in self._spares if one is not memory]
        if memory is None:
            memory = np.empty(size, np.uint8)
        # What reads the bytes holds this object, not the memory: only its end gives that back.
        taken = np.frombuffer(memory, np.uint8, count=size)
        weakref.finalize(taken, self._give_back, memory).atexit = False
        return taken

    def close(self) -> None:
        """Keep no memory any longer."""
        with self._lock:
            self._closed = True
            self._spares.clear()

    def _give_back(self, memory: "NDArray[Any]") -> None:
        with self._lock:
            if not self._closed:
                self._spares.insert(0, memory)
                # The newest fit what comes next; one may be larger than all that may wait.
                while len(self._spares) > 1 and sum(one.size for one in self._spares) > self._limit:
                    self._spares.pop()


class Saved:
    """A checkpoint that was handed over, and is registered once `wait` returns.

    Attributes:
        reference: The text that finds it once it is registered.
        step: Its step.
    """

    def __init__(self, reference: str, step: int) -> None:
        """Begin as one that is not registered yet."""
        self.reference = reference
        self.step = step
        self._future: Future[Artifact] = Future()
        self._told = False

    @property
    def done(self) -> bool:
        """Whether it is registered, or will never be."""
        return self._future.done()

    def wait(self) -> "Artifact":
        """Return the checkpoint once it is registered.

        Raises:
            ArtifactError: It cannot be registered.
        """
        try:
            return self._future.result()
        except BaseException:
            self._told = True
            raise

    def settle(self, publish: "Callable[[], Artifact]") -> bool:
        """Register it, and return whether that succeeded."""
        try:
            self._future.set_result(publish())
        except BaseException as error:  # noqa: BLE001 (whoever waits is told)
            self._future.set_exception(error)
            return False
        return True

    def untold(self) -> BaseException | None:
        """Return why it failed, once, unless somebody was told by `wait`."""
        error = None if self._told else self._future.exception()
        self._told = True
        return error


class Publisher:
    """A thread that registers checkpoints in the order in which they were handed over."""

    def __init__(self, limit: int = PENDING_BYTES) -> None:
        """Begin without a thread; the first checkpoint starts it."""
        self._limit = limit
        self._change = threading.Condition()
        self._waiting: deque[tuple[Saved, Callable[[], Artifact], int]] = deque()
        self._failed: list[Saved] = []
        self._held = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def reserve(self, size: int) -> None:
        """Wait until that many bytes may be held, and count them as held.

        Raises:
            ArtifactError: An earlier checkpoint could not be registered.
        """
        self.check()
        with self._change:
            self._change.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size

    def release(self, size: int) -> None:
        """Count bytes as held no longer."""
        with self._change:
            self._held -= size
            self._change.notify_all()

    def hand_over(self, saved: Saved, publish: "Callable[[], Artifact]", size: int) -> None:
        """Have a checkpoint registered whose bytes were reserved."""
        with self._change:
            self._waiting.append((saved, publish, size))
            if self._thread is None:
                # A process that ends does not wait: what was not registered is not there.
                self._thread = threading.Thread(
                    target=self._work, name="artifact-pipelines-publisher", daemon=True
                )
                self._thread.start()
            self._change.notify_all()

    def check(self) -> None:
        """Raise the first failure that nobody was told of."""
        with self._change:
            failed, self._failed = self._failed, []
        errors = [error for saved in failed if (error := saved.untold()) is not None]
        if errors:
            for error in errors[1:]:
                errors[0].add_note(f"A later checkpoint failed as well: {error}")
            raise errors[0]

    def drain(self) -> None:
        """Wait until all is registered, and raise the first failure that nobody was told of."""
        self.settle()
        self.check()

    def settle(self) -> None:
        """Wait until nothing waits to be registered."""
        if threading.current_thread() is self._thread:
            return
        with self._change:
            self._change.wait_for(lambda: not self._waiting)

    def close(self) -> None:
        """End the thread once nothing waits."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                saved, publish, size = self._waiting[0]
            good = saved.settle(publish)
            # The bytes go before the count does.
            del publish
            with self._change:
                self._waiting.popleft()
                if not good:
                    self._failed.append(saved)
                self._held -= size
                self._change.notify_all()
