"""What the readers of feature files share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._errors import FeatureFileError
from .._files import in_one_line


@contextmanager
def reading(path: Path, what: str, extra: str | None = None) -> Iterator[None]:
    """Turns whatever a library raises over a file into a `FeatureFileError`, also where the library is missing."""
    try:
        yield
    except FeatureFileError:
        raise
    except ImportError as error:
        raise FeatureFileError(
            f"{path} needs a package that is not installed ({error}): pip install 'neurocollapse[{extra}]'"
        ) from error
    except PermissionError as error:
        raise FeatureFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except MemoryError as error:
        raise FeatureFileError(
            f"{path} does not fit in memory ({in_one_line(error)}); write it in smaller parts"
        ) from error
    except Exception as error:  # each format has its own ways to say that a file is not whole
        raise FeatureFileError(f"{path} is not a whole {what} ({in_one_line(error)}); write it again") from error
