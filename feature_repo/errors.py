"""The one exception tree.

PerennialError
├── SettingsError        a setting is unknown or out of range
├── SourceError          the source cannot be read, or lacks a column
├── BatchStopped         a batch broke a batch-level rule; nothing of it landed
├── RowRefused           a quarantined row may not be let in as asked
├── LetterRefused        a dead letter is not there
├── OutOfOrder           data from before what has landed was asked for
├── LakeBusy             another writer holds the lake
├── DefinitionChanged    a feature that a live model takes is no longer what it was trained on
├── StoreUnavailable     the feature store cannot be read or written
├── RegistryUnavailable  the model registry cannot be reached
├── ModelRefused         a model version failed its self-test or is incomplete
├── JournalUnavailable   a prediction cannot be made durable
├── NotEnoughData        a stage has too few rows to do its work
├── GateClosed           a promotion was asked for without a passing verdict
├── ReleaseBusy          another move of what serves has not ended
├── MonitorsDown         a monitor that must be live before a promotion is not
├── NotificationFailed   a message about an incident could not be handed over
└── StackError           a process of the local stack cannot start or died
"""


class PerennialError(Exception):
    """An error that names its subject, what was got, what was expected and the next step."""

    def __init__(self, subject: str, *, got: object, expected: object, next_step: str) -> None:
        super().__init__(f"{subject}: got {got}, expected {expected}. {next_step}")
        self.subject = subject
        self.got = got
        self.expected = expected
        self.next_step = next_step

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a trip between processes, keyword arguments and all."""
        return _rebuild, (type(self), self.subject, self.got, self.expected, self.next_step)


def _rebuild(
    kind: type[PerennialError], subject: str, got: object, expected: object, next_step: str
) -> PerennialError:
    return kind(subject, got=got, expected=expected, next_step=next_step)


class SettingsError(PerennialError):
    """A setting is unknown or out of range."""


class SourceError(PerennialError):
    """The source cannot be read, or lacks a column."""


class BatchStopped(PerennialError):
    """A batch broke a batch-level rule; nothing of it landed."""


class RowRefused(PerennialError):
    """A quarantined row may not be let in as asked."""


class LetterRefused(PerennialError):
    """A dead letter is not there."""


class OutOfOrder(PerennialError):
    """Data from before what has landed was asked for."""


class LakeBusy(PerennialError):
    """Another writer holds the lake."""


class DefinitionChanged(PerennialError):
    """A feature that a live model takes is no longer what it was trained on."""


class StoreUnavailable(PerennialError):
    """The feature store cannot be read or written."""


class RegistryUnavailable(PerennialError):
    """The model registry cannot be reached."""


class ModelRefused(PerennialError):
    """A model version failed its self-test or is incomplete."""


class JournalUnavailable(PerennialError):
    """A prediction cannot be made durable."""


class NotEnoughData(PerennialError):
    """A stage has too few rows to do its work."""


class GateClosed(PerennialError):
    """A promotion was asked for without a passing verdict."""


class ReleaseBusy(PerennialError):
    """Another move of what serves has not ended."""


class MonitorsDown(PerennialError):
    """A monitor that must be live before a promotion is not."""


class NotificationFailed(PerennialError):
    """A message about an incident could not be handed over."""


class StackError(PerennialError):
    """A process of the local stack cannot start or died."""
