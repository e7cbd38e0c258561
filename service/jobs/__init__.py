"""What outlives a process: uploaded files, jobs with their events, checkpoints, aliases.

The service, training workers and benchmarks share nothing else. No torch here, no HTTP, no event loop: the store is
synchronous, and who must not block calls it from a thread.
"""

from service.jobs.records import Alias, Checkpoint, Event, File, Job, Kind, Level, Page, Staged, Status, Wanted
from service.jobs.store import BadCursor, Conflict, Missing, Store

__all__ = [
    "Alias",
    "BadCursor",
    "Checkpoint",
    "Conflict",
    "Event",
    "File",
    "Job",
    "Kind",
    "Level",
    "Missing",
    "Page",
    "Staged",
    "Status",
    "Store",
    "Wanted",
]
