"""Exports by the number that their order was answered with."""

from contextlib import suppress
from typing import Annotated

from fastapi import Path

from moeash.errors import LaunchNotFoundError
from moeash.study.storage.team.launch import LaunchRecord
from moeash.study.storage.team.launches import Launches

Number = Annotated[int, Path(ge=1, lt=2**31)]


def export_of(launches: Launches, id: int) -> LaunchRecord:
    """Return the launch of an export.

    Raises:
        LaunchNotFoundError: there is none of that number.
    """
    with suppress(LaunchNotFoundError):
        record = launches.get(id)
        if record.kind == "export":
            return record
    where = "/api/v1/studies/NAME/exports lists those of a study"
    raise LaunchNotFoundError(f"there is no export {id}; {where}")
