"""The error tree: every error that a user can cause or cure.

    OpenZayaError             exit code 1
    +-- ConfigError           exit code 2: a setting, a flag or a config key
    +-- CheckpointError       exit code 3: a model folder or a training checkpoint
    +-- DataError             exit code 2: a document, a corpus, a mixture
    +-- EnvError              exit code 2: an environment or its difficulty
    +-- SandboxError          exit code 1: the sandbox cannot run here
    +-- EngineError           exit code 1: generation failed on our side
    +-- RequestError          exit code 2: one request that cannot be served
    |   `-- ContextLengthError            the request is longer than the model's context
    +-- TrainingStopped       exit code 75: SIGTERM came, and the run can be resumed
    `-- UpstreamError         exit code 4: another server failed or lied
        `-- BusyError                     no place at it came free in time

A message says what was found, what was expected and how to cure it. `assert` is for our own
invariants only.
"""


class OpenZayaError(Exception):
    """Base of all errors that the command line prints without a traceback."""

    exit_code = 1


class ConfigError(OpenZayaError):
    """A setting that does not exist or does not fit the others."""

    exit_code = 2


class CheckpointError(OpenZayaError):
    """A model folder or a training checkpoint that cannot be read or written whole."""

    exit_code = 3


class DataError(OpenZayaError):
    """A document, corpus or mixture that cannot be used."""

    exit_code = 2


class EnvError(OpenZayaError):
    """An environment that does not exist or cannot make the problem asked for."""

    exit_code = 2


class SandboxError(OpenZayaError):
    """The sandbox cannot run on this machine; never a verdict about model text."""


class EngineError(OpenZayaError):
    """Generation failed on our side; never a wrong answer."""


class RequestError(OpenZayaError):
    """One request that cannot be served as it was asked."""

    exit_code = 2


class ContextLengthError(RequestError):
    """A request that is longer than the model's context."""


class TrainingStopped(OpenZayaError):
    """Training ended early because it was asked to; its last step is saved.

    No success, or a scheduler would take the run for finished: EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class UpstreamError(OpenZayaError):
    """Another server refused, failed or answered with something that cannot be trusted."""

    exit_code = 4


class BusyError(UpstreamError):
    """No place at a server came free in time; it was not asked."""
