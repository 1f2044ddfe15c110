"""The stages put in order and started: configuration, run directory, receipts, command line."""

import sys

from workers.base.processes import end_at_interrupts

if sys.argv[:1] == ["-m"]:  # one of the commands is being imported
    end_at_interrupts()
