"""The run's before/after report, for a browser that cannot send a token with a link."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from starlette.responses import FileResponse

from medimind.serving.failures import ServingError
from medimind.serving.headers import REPORT_POLICY

TICKET_SECONDS = 60
_MOST_TICKETS = 100


@dataclass(frozen=True, slots=True)
class Report:
    """A run folder's report.

    Attributes:
        folder: The run folder.
        tickets: Ticket -> when it expires.
    """

    folder: Path
    tickets: dict[str, float] = field(default_factory=dict)

    def page(self) -> FileResponse:
        """The page, under a policy that lets it style itself and nothing else."""
        return self._file("report.html", "text/html; charset=utf-8")

    def figures(self) -> FileResponse:
        """The same as JSON."""
        return self._file("report.json", "application/json")

    def new_ticket(self) -> str:
        """A ticket that opens the page once, within a minute."""
        now = time.monotonic()
        for ticket in [one for one, end in self.tickets.items() if end < now]:
            del self.tickets[ticket]
        while len(self.tickets) >= _MOST_TICKETS:
            del self.tickets[next(iter(self.tickets))]
        ticket = secrets.token_urlsafe(32)
        self.tickets[ticket] = now + TICKET_SECONDS
        return ticket

    def page_by(self, ticket: str) -> FileResponse:
        """The page, for a ticket that is then spent.

        Raises:
            ServingError: If the ticket is unknown, spent or too old.
        """
        if self.tickets.pop(ticket, 0.0) < time.monotonic():
            raise ServingError(404, "this link was used before, or is too old", code="not_found")
        return self.page()

    def _file(self, name: str, media_type: str) -> FileResponse:
        path = self.folder / name
        if not path.is_file():
            raise ServingError(404, "the run has no such report", code="not_found")
        headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-store"}
        return FileResponse(path, media_type=media_type, headers=headers)


def find_report(run: Path | None, *, beside: Path | None = None) -> Report | None:
    """The report of a run, or of the run that a model file lies in."""
    folders = [run] if run is not None else []
    if run is None and beside is not None:
        folders = [beside.parent, beside.parent.parent]
    found = next((one for one in folders if (one / "report.html").is_file()), None)
    return None if found is None else Report(found)
