"""What can be wrong with a request to search."""


class SearchError(ValueError):
    """A search that cannot be made as asked. Names the remedy."""
