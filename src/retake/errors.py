"""The errors that a user meets: each is one readable message that says what, where and what to do next."""


class RetakeError(Exception):
    """The work cannot be done: a bad file, a missing folder, a refused model. Commands exit with 1."""

    code = 1


class UsageError(RetakeError):
    """The command or its configuration is wrong, and nothing was started. Commands exit with 2."""

    code = 2


class NotBlessedError(RetakeError):
    """The run is complete, but its model did not pass the gate as `--require-blessing` asks. Commands exit with 3."""

    code = 3
