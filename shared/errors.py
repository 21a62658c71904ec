"""The one exception for input that a person can mend."""


class InputError(ValueError):
    """Bad input: names the parameter or file, its value and what is allowed.

    The command line prints its text as one line and exits with code 2; a stage fails with it before any
    training starts.
    """


class TrainingError(RuntimeError):
    """A training that started and failed: carries the trainer's last lines."""
