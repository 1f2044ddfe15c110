"""What is said of errors that nobody has foreseen."""

import errno

import pytest

from workers.base.exit_codes import ExitCode, explain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.PARTIAL),
        (OSError(errno.EACCES, "Permission denied", "/x"), ExitCode.CONFIGURATION),
        (OSError(errno.EINVAL, "Invalid argument"), ExitCode.FAULT),
        (ValueError("x"), ExitCode.FAULT),
    ],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_cause_that_may_pass_is_found_in_what_a_library_makes_of_it(error, code, is_wrapped):
    try:
        try:
            raise error
        except (OSError, ValueError):
            if is_wrapped:
                raise RuntimeError("in a pipeline") from error
            raise
    except Exception as raised:  # noqa: BLE001 - what is tested takes any
        found, text = explain(raised)
    wrapped_code = code if code is ExitCode.PARTIAL else ExitCode.FAULT
    assert found == (wrapped_code if is_wrapped else code)
    assert "Traceback" not in text
    if code is ExitCode.PARTIAL:
        assert "the same command goes on" in text
