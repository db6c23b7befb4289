"""``moeash token``: who may use the service."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moeash.cli.show import JsonOption, StorageOption, clock, print_json, remark, say, table

if TYPE_CHECKING:
    from moeash.study.storage.access.tokens import TokenRecord, Tokens

TokenArgument = Annotated[int, typer.Argument(help="Id of the token.", metavar="ID")]


def create(
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        typer.Option(
            "--role",
            help="viewer sees; operator also launches, stops and exports; admin also manages "
            "tokens.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Whose it is, or what for; default: the role."),
    ] = None,
    expires_days: Annotated[
        float | None,
        typer.Option("--expires-days", help="Days after which it lets nobody in; default: never."),
    ] = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a token for the service and show it, once: only a digest of it is stored."""
    record, secret = _tokens(storage, create=True).create(
        role, name=name, expires_days=expires_days
    )
    if json_:
        print_json({"token": secret, **_shown(record)})
        return
    print(secret)
    ends = "" if record.expires_at is None else f", until {clock(record.expires_at)} UTC"
    remark(f"token {record.id} of {record.name} ({record.role}{ends}); it is not shown again")


def list_tokens(storage: StorageOption = None, json_: JsonOption = False) -> None:
    """List the tokens of the service, with those that let nobody in any more."""
    records = _tokens(storage).list()
    if json_:
        print_json([_shown(record) for record in records])
        return
    table(
        "tokens",
        [
            ("id", "right"),
            ("name", "left"),
            ("role", "left"),
            ("state", "left"),
            ("created (UTC)", "left"),
            ("expires", "left"),
            ("used", "left"),
        ],
        [
            [
                str(record.id),
                record.name,
                record.role,
                record.state,
                clock(record.created_at),
                "never" if record.expires_at is None else clock(record.expires_at),
                "never" if record.used_at is None else clock(record.used_at),
            ]
            for record in records
        ],
    )


def revoke(token: TokenArgument, storage: StorageOption = None, json_: JsonOption = False) -> None:
    """Let nobody in with a token any more, from now on; who logged in with it is logged out."""
    record = _tokens(storage).revoke(token)
    if json_:
        print_json(_shown(record))
    else:
        say(f"token {record.id} of {record.name} is revoked")


def _shown(record: "TokenRecord") -> dict[str, Any]:
    return {**dataclasses.asdict(record), "state": record.state}


def _tokens(storage: str | None, *, create: bool = False) -> "Tokens":
    from moeash.study.opening import open_tokens

    return open_tokens(storage, create=create)
