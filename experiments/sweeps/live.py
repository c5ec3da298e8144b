"""The table of a sweep under way: live on a terminal, elsewhere a line for each change."""

import contextlib
import time

from experiments.sweeps import files
from experiments.sweeps.points import Point, varying

COLORS = {
    "done": "green",
    "running": "cyan",
    "diverged": "yellow",
    "failed": "red",
    "stopped": "magenta",
    "preempted": "magenta",
    "interrupted": "magenta",
}


def look(point: Point) -> dict:
    """State and progress of a point now, from its files."""
    step, steps = files.progress(point.folder)
    attempts = files.record(point.folder)["attempts"]
    return {
        "state": files.state(point.folder),
        "step": step,
        "steps": steps,
        "attempts": len(attempts),
        "seconds": sum(attempt.get("seconds", 0) for attempt in attempts),
        "message": attempts[-1].get("message", "") if attempts else "",
    }


def cells(point: Point, keys, seen: dict) -> list[str]:
    """A line of the table: name, overrides, state, steps, attempts, seconds."""
    done = f"{seen['step']}/{seen['steps']}" if seen["steps"] else "-"
    overrides = [short(point.overrides.get(key, "")) for key in keys]
    return [
        point.name,
        *overrides,
        seen["state"],
        done,
        str(seen["attempts"]),
        f"{seen['seconds']:.0f}",
    ]


def short(value) -> str:
    """A value in a cell."""
    return format(value, ".4g") if isinstance(value, float) else str(value)


def written(point: Point, keys) -> str:
    """The overrides of `keys`, as far as the point has them."""
    return " ".join(f"{k}={short(point.overrides[k])}" for k in keys if k in point.overrides)


def heads(keys) -> list[str]:
    """The names over the columns of `cells`."""
    return ["point", *keys, "state", "steps", "attempts", "seconds"]


class Watch:
    """Shows how the points stand; to be called again and again. A context."""

    def __init__(self, points: list[Point], every: float = 1.0):
        self._points, self._keys, self._every = points, varying(points), every
        self._ended, self._states, self._last = {}, {}, -every
        self._live = None

    def __enter__(self):
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.live import Live

            console = Console()
            if console.is_terminal:
                self._live = Live(console=console, auto_refresh=False, transient=True)
                self._live.__enter__()
        self()
        return self

    def __exit__(self, *failure):
        self(now=True)
        if self._live is not None:
            self._live.__exit__(*failure)

    def __call__(self, now=False):
        """Looks again, once in `every` seconds."""
        if not now and time.monotonic() < self._last + self._every:
            return
        self._last = time.monotonic()
        seen = {}
        for point in self._points:
            seen[point.name] = self._ended.get(point.name) or look(point)
            if seen[point.name]["state"] in ("done", "diverged"):
                self._ended[point.name] = seen[point.name]
        if self._live is not None:
            self._live.update(self._table(seen), refresh=True)
        else:
            self._say_changes(seen)

    def _say_changes(self, seen):
        if not self._states:
            self._states = {n: (one["state"], one["attempts"]) for n, one in seen.items()}
            before = [state for state, _ in self._states.values() if state != "waiting"]
            if before:
                counts = ", ".join(f"{before.count(s)} {s}" for s in dict.fromkeys(before))
                print(f"Before: {counts}.", flush=True)
            return
        for point in self._points:
            state = seen[point.name]["state"], seen[point.name]["attempts"]
            if state == self._states[point.name]:
                continue
            self._states[point.name] = state
            overrides = written(point, self._keys)
            ended = sum(one in ("done", "diverged", "failed") for one, _ in self._states.values())
            message = f" ({seen[point.name]['message']})" if seen[point.name]["message"] else ""
            if state[0] == "running" and state[1] > 1:
                message = f", attempt {state[1]}"
            line = f"[{ended}/{len(self._points)}] {point.name} {overrides}: {state[0]}{message}"
            print(line, flush=True)

    def _table(self, seen):
        from rich.table import Table

        states = [one["state"] for one in seen.values()]
        counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        table = Table(title=f"{len(states)} points: {counts}", title_justify="left")
        for head in heads(self._keys):
            table.add_column(head)
        # As many as a terminal holds, those under way first.
        order = sorted(self._points, key=lambda p: seen[p.name]["state"] != "running")
        for point in order[: max(5, self._live.console.height - 6)]:
            color = COLORS.get(seen[point.name]["state"], "")
            table.add_row(*cells(point, self._keys, seen[point.name]), style=color)
        return table
