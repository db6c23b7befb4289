"""``moeash compare``: fronts of several studies of one network, in numbers."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeash.cli.show import JsonOption, StorageOption, print_json, say, table

if TYPE_CHECKING:
    from collections.abc import Mapping


def compare(
    studies: Annotated[list[str], typer.Argument(help="Two or more studies.", metavar="STUDY...")],
    drop: Annotated[
        list[float] | None,
        typer.Option("--drop", help="Compare bytes within this drop; may be repeated."),
    ] = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare fronts of one network: hypervolume, coverage, bytes at equal drop."""
    from moeash.study.comparing import compare as compared
    from moeash.study.opening import open_study

    document = compared([open_study(name, storage) for name in studies], drop)
    if json_:
        print_json(document)
        return
    _show(document)


def _show(document: "Mapping[str, Any]") -> None:
    names = [study["name"] for study in document["studies"]]
    say(f"metric {document['metric']}, float network {document['baseline']:.4f}")
    table(
        "",
        [
            ("study", "left"),
            ("method", "left"),
            ("front", "right"),
            ("hypervolume", "right"),
            *[(f"covers {name}", "right") for name in names],
        ],
        [
            [
                study["name"],
                study["method"],
                str(study["front"]),
                f"{study['hypervolume']:.6f}",
                *[
                    "" if n == study["name"] else f"{document['coverage'][study['name']][n]:.0%}"
                    for n in names
                ],
            ]
            for study in document["studies"]
        ],
    )
    table(
        "bytes within a drop",
        [("drop", "right"), *[(name, "right") for name in names]],
        [
            [f"{row['drop']:g}", *[_bytes(row["bytes"][name]) for name in names]]
            for row in document["at_equal_drop"]
        ],
    )


def _bytes(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"
