"""How many calls run at once: half as many after "too many requests", then step by step back up to the limit."""

from __future__ import annotations

from threading import Condition


class Pace:
    """Slots for calls, shared by all threads; additive increase and multiplicative decrease, as TCP has them."""

    def __init__(self, most: int) -> None:
        self.most = most
        """The limit that is never exceeded."""
        self.limit = most
        """Calls that may run at once now; at least 1."""
        self._running = 0
        self._begun = 0
        self._begun_at_shrinking = 0
        self._fine = 0
        self._closed = False
        self._changed = Condition()

    def begin(self) -> int | None:
        """Wait for a slot and take it; the number of the call, or None once the pace is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._running < self.limit)
            if self._closed:
                return None
            self._running += 1
            self._begun += 1
            return self._begun

    def end(self, number: int, *, too_many: bool) -> None:
        """Give the slot of this call back, and say whether the server wanted fewer.

        The calls that were under way when the limit shrank are not news: only a later one shrinks it again.
        After as many calls without complaint as it allows at once, it grows by a sixteenth of the maximum, but by no
        more than a quarter of itself, so that a small limit is felt for in small steps.
        """
        with self._changed:
            self._running -= 1
            if not too_many:
                self._fine += 1
                if self._fine >= self.limit:
                    step = max(1, min(self.most // 16, self.limit // 4))
                    self.limit = min(self.most, self.limit + step)
                    self._fine = 0
            elif number > self._begun_at_shrinking:
                self.limit = max(1, self.limit // 2)
                self._begun_at_shrinking = self._begun
                self._fine = 0
            self._changed.notify(max(0, self.limit - self._running))

    def close(self) -> None:
        """Let nobody begin any more, those who wait included."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
