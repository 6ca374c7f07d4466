"""The failures that a user can cause; each message is one line that says where, what was found, and what to do."""


class SesrError(Exception):
    """A failure that the user can mend; `cli` prints it as one line and exits with status 1."""


class ConfigError(SesrError):
    """A setting, study or flag that is unknown, of the wrong type, or out of range."""


class DataError(SesrError):
    """A data source, picture or archive that is missing, damaged, or unfit."""


class ModelError(SesrError):
    """A MODEL that does not exist, or whose weights are missing, altered, or of another shape."""


class StoreError(SesrError):
    """A tracking store, registry or study database that cannot be reached or written."""


class StoreAwayError(StoreError):
    """A store that does not answer now and may answer later: what was asked of it can be asked again."""


class RunHeldError(StoreError):
    """A run that a living process is writing to."""


class ParentError(SesrError):
    """A x4 network's x2 parent that is missing, unfit, or could not be trained."""


class TargetError(SesrError):
    """A target that is unknown, whose tool is missing or other than expected, or that cannot run the network."""


class ExportError(SesrError):
    """A network that cannot be exported: a package is missing, or the file does not do what the network does."""
