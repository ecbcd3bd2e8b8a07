"""Shards and loose pictures made by the test run."""

from tests.data.conftest import make_shards

__all__ = ["make_shards"]
