"""What can be wrong with data: as a whole, or one sample of it."""


class DataError(ValueError):
    """A data set that cannot be used as it stands. Names the file and the remedy."""


class BadSampleError(ValueError):
    """One sample that cannot be used. `cause` is a short name to count by; `foreseen` says that the samples which are
    lost with it were counted, and judged, before the run."""

    def __init__(self, cause: str, place: str, detail: str = "", foreseen: bool = False) -> None:
        super().__init__(f"{place}: {cause}{f' ({detail})' if detail else ''}")
        self.cause = cause
        self.place = place
        self.detail = detail
        self.foreseen = foreseen

    def __reduce__(self) -> tuple[type["BadSampleError"], tuple[str, str, str, bool]]:
        return BadSampleError, (self.cause, self.place, self.detail, self.foreseen)
