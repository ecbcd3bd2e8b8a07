"""What can be wrong with data: as a whole, or one sample of it."""


class DataError(ValueError):
    """A data set that cannot be used as it stands. Names the file and the remedy."""


class BadSampleError(ValueError):
    """One sample that cannot be used. `cause` is a short name to count by."""

    def __init__(self, cause: str, place: str, detail: str = "") -> None:
        super().__init__(f"{place}: {cause}{f' ({detail})' if detail else ''}")
        self.cause = cause
        self.place = place
        self.detail = detail

    def __reduce__(self) -> tuple[type["BadSampleError"], tuple[str, str, str]]:
        return BadSampleError, (self.cause, self.place, self.detail)
