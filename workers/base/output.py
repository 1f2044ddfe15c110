"""What a command prints: answers to stdout; everything else, its messages, goes to stderr."""

from __future__ import annotations

import os
import sys

from workers.base.copies import as_urls


def say(text: str) -> None:
    """Print an answer at once. Whoever no longer reads it (``| head``) has had enough of it."""
    text, encoding = as_urls(text), sys.stdout.encoding
    try:
        sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # What is buffered is written once more when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_streams() -> None:
    """Open what was closed of stdin, stdout and stderr: the next file would else be written to in
    their place, by whoever prints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
