"""Work on a helper thread: one thread per communicator, first submitted first run."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Helper", "Request"]

PATIENCE = 5.0  # seconds in which who waits for a request may learn of its error before it is anybody's


class Request:
    """The outcome, now or later, of a function that runs elsewhere."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function: Callable[..., Any] | None = function
        self._args = args
        self._result: Any = None
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self.heard = threading.Event()  #: whether somebody has waited for it

    def done(self) -> bool:
        """True as soon as `wait` would return, or raise, at once."""
        return self._finished.is_set()

    def wait(self) -> Any:
        """The function's result; raises what it raised, with the helper thread's traceback."""
        self._finished.wait()
        self.heard.set()
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> BaseException | None:
        """Run the function in this thread and keep its outcome; returns what it raised."""
        assert self._function is not None, "a request runs once"
        try:
            self._result = self._function(*self._args)
        except BaseException as error:
            self._error = error
        # A waiting caller may keep the request for long: it need not keep the arrays.
        self._function, self._args = None, ()
        self._finished.set()
        return self._error


class Helper:
    """A thread that runs requests in the order in which they were submitted.

    Every rank submits the same collectives in the same order, so those of one helper thread match
    those of the other ranks' helper threads. `on_error` is called, on the helper thread, with what
    a request raised, unless somebody waits for that request within PATIENCE seconds.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None]) -> None:
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._on_error = on_error
        # A daemon, because the interpreter joins other threads before it runs `atexit` functions,
        # and this one ends only when it is told to.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        # What was submitted and never waited for is finished before MPI_Finalize.
        atexit.register(self.close)

    def submit(self, request: Request) -> Request:
        self._queue.put(request)
        return request

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._queue.put(None)
        self._thread.join()
        atexit.unregister(self.close)

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            error = request.run()
            if error is not None and not request.heard.wait(PATIENCE):
                self._on_error(error)
            del request, error
