"""The errors of fedmarket. Each message is one line and says what was expected and what came.

::

    FedmarketError
    ├── UsageError            the person's words are off: a key, an option, a file name         (exit code 2)
    │   ├── ConfigError       an experiment or contract document
    │   └── PlanError         a privacy plan that cannot be made or must not be run
    ├── DataError             a table cannot be used                                            (exit code 1)
    │   ├── TableError        unreadable, truncated, wrong hash
    │   └── ContractViolation a table breaks the contract; carries every broken rule
    └── ProtocolError         a message between party and coordinator                           (exit code 1)
        ├── BadMessage        malformed, wrong shape, not finite, out of range, wrong round
        ├── Refusal           a party will not answer: its budget or its terms forbid it
        ├── RoundVoid         a round of secure aggregation that gives no sum; the next one starts afresh
        └── FederationStopped too few parties are left to go on

No error carries a cell, a key or a gradient: counts and column names only.
"""


class FedmarketError(Exception):
    """Root of all errors that a person or a peer can cause."""

    exit_code = 1


class UsageError(FedmarketError):
    """What was asked for cannot be understood or does not exist."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration or contract document is wrong; the message names file and key."""


class PlanError(UsageError):
    """A privacy plan is impossible or would not hold."""


class DataError(FedmarketError):
    """A table cannot be used for what was asked."""


class TableError(DataError):
    """A file cannot be read as a table, or is not the file it should be."""


class ContractViolation(DataError):
    """A table breaks its contract.

    Attributes:
        source: what was checked.
        broken: every broken rule, one line each, with column names and counts and never a value.
    """

    def __init__(self, source: str, broken: tuple[str, ...]) -> None:
        self.source = source
        self.broken = broken
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        super().__init__(f"{source}: {broken[0]}{more}")

    def __reduce__(self) -> tuple[type["ContractViolation"], tuple[str, tuple[str, ...]]]:
        """Let the error cross from a worker process with all that it carries."""
        return type(self), (self.source, self.broken)


class ProtocolError(FedmarketError):
    """Something is wrong between a party and the coordinator."""


class BadMessage(ProtocolError):
    """A message that must not be used: wrong type, shape, range, round or sender."""


class Refusal(ProtocolError):
    """A party refuses to answer because its own terms or budget forbid it."""


class RoundVoid(ProtocolError):
    """A round of secure aggregation ended without a sum: too few parties are left, or their shares do not combine."""


class FederationStopped(ProtocolError):
    """The federation cannot go on: too few parties are left."""
