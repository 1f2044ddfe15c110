"""Logs: JSON lines in the run directory for machines, short lines on stderr for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

from workers.base.copies import as_urls
from workers.base.credentials import shown, shown_settings

#: The loggers whose INFO is ours; of libraries, warnings are enough.
OURS = ("pipelines", "query_builder", "workers", "clip_model")


class Lines(logging.Formatter):
    """The message alone, without a trace, which is for the file.

    Whoever logs a URL, or whichever library, no credentials come through.
    """

    def format(self, record: logging.LogRecord) -> str:
        return as_urls(shown(record.getMessage()))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message and the fields of ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": as_urls(shown(record.getMessage())),
            **shown_settings(getattr(record, "fields", {})),
        }
        if record.exc_info:
            line["exception"] = shown(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class LogFile(WatchedFileHandler):
    """A file that may be replaced, or whose disk is full: that is said once, and ends nothing."""

    said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        if not self.said:
            self.said = True
            sys.stderr.write(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")


def to_stderr() -> None:
    """Send the logs of this process to stderr alone, until `configure` knows of a directory."""
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(Lines())
    logging.getLogger().handlers = [console]


def configure(directory: Path) -> None:
    """Send the logs of this process to stderr and to ``logs/run.jsonl`` in ``directory``."""
    folder = directory / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    file = LogFile(folder / "run.jsonl", encoding="utf-8", errors="backslashreplace")
    file.setFormatter(JsonLines())
    to_stderr()
    root = logging.getLogger()
    root.addHandler(file)
    root.setLevel(logging.WARNING)
    # Beam warns of Google Cloud's packages, which nothing here needs.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    root.addFilter(lambda record: "apitools not found" not in record.getMessage())
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
