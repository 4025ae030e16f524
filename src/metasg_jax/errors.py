"""Errors a user can act on. Each message names the field and the allowed values."""


class ConfigError(ValueError):
    """A setting outside its range, or settings that contradict each other."""


class DataError(RuntimeError):
    """A data set that is missing, unreachable, damaged, or another one than was asked for."""


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, incomplete, or was made with another configuration."""


class JoinError(RuntimeError):
    """A process of a run by many that did not join in time; the message names its rank."""


class NonFinitePolicyError(RuntimeError):
    """A policy parameter became NaN or infinite; the message names the meta-step."""


class UnknownNameError(KeyError, ValueError):
    """A name that is not registered; the message lists what is, and the nearest match."""

    def __str__(self) -> str:
        return str(self.args[0])
