"""Who may do what through the service: viewer sees, operator launches, admin manages tokens."""

from typing import Literal, get_args

Role = Literal["viewer", "operator", "admin"]
"""Roles in rising order: each may do what those before it may."""

ROLES: tuple[Role, ...] = get_args(Role)

AuditRole = Literal["viewer", "operator", "admin", "none"]
"""Role of who did something; ``none`` tried to log in, and was not let in."""


def covers(role: Role, needed: Role) -> bool:
    """Tell whether a role may do what is allowed to another."""
    return ROLES.index(role) >= ROLES.index(needed)
