"""The contract of tokens, sessions and the audit. One class runs on every database."""

from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from moeash.errors import InputError
from moeash.study.storage.access.audit import Audit
from moeash.study.storage.access.secrets import moment_of, present, written
from moeash.study.storage.access.sessions import IDLE, LONGEST, MOST, Sessions
from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.tables import AUDIT, SESSIONS, TOKENS

PAST, SOON = written(present() - timedelta(seconds=1)), written(present() + timedelta(days=1))


def change(storage, table, **values):
    storage.database.write(None, lambda c: c.execute(update(table).values(**values)))


def cells(storage, table):
    rows = storage.database.read(lambda c: c.execute(select(table)).fetchall())
    return " ".join(str(value) for row in rows for value in row)


class AccessContract:
    """Subclasses give ``storage``, open on an empty database."""

    @pytest.fixture
    def tokens(self, storage):
        return Tokens(storage.database)

    @pytest.fixture
    def sessions(self, storage):
        return Sessions(storage.database)

    @pytest.fixture
    def audit(self, storage):
        return Audit(storage.database)

    # ------------------------------------------------------------------ tokens

    def test_a_token_is_found_by_its_secret_and_by_nothing_else(self, tokens):
        record, secret = tokens.create("operator", name=" ci ")
        assert (record.name, record.role, record.expires_at) == ("ci", "operator", None)
        assert tokens.find(secret).id == record.id
        for other in (secret[:-1], secret + "x", secret.upper(), "", "\0", "\udcff", "é"):
            assert tokens.find(other) is None

    def test_no_secret_is_stored(self, storage, tokens, sessions):
        token, secret = tokens.create("viewer")
        cookie = sessions.create("a", "viewer", token=token)
        assert secret not in cells(storage, TOKENS) and cookie not in cells(storage, SESSIONS)

    def test_every_secret_is_another_and_too_long_to_guess(self, tokens):
        secrets = {tokens.create("viewer")[1] for _ in range(20)}
        assert len(secrets) == 20 and min(map(len, secrets)) >= 43

    def test_a_revoked_token_lets_nobody_in_and_stays_in_the_list(self, tokens):
        record, secret = tokens.create("admin")
        first = tokens.revoke(record.id)
        assert tokens.find(secret) is None
        assert [(t.id, t.state) for t in tokens.list()] == [(record.id, "revoked")]
        assert tokens.revoke(record.id) == first, "revoking again moves nothing"

    def test_an_expired_token_lets_nobody_in(self, storage, tokens):
        record, secret = tokens.create("admin", expires_days=1)
        assert tokens.find(secret) is not None and record.state == "valid"
        change(storage, TOKENS, expires_at=PAST)
        assert tokens.find(secret) is None and tokens.get(record.id).state == "expired"

    def test_the_use_of_a_token_is_noted_at_most_once_a_minute(self, storage, tokens):
        record, secret = tokens.create("viewer")
        assert record.used_at is None
        tokens.find(secret)
        first = tokens.get(record.id).used_at
        assert first is not None
        tokens.find(secret)
        assert tokens.get(record.id).used_at == first
        change(storage, TOKENS, used_at=written(present() - timedelta(seconds=61)))
        tokens.find(secret)
        assert tokens.get(record.id).used_at >= first

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"role": "root"}, "role is 'root', needed one of viewer, operator, admin"),
            ({"role": "viewer", "name": ""}, "needed 1 to 200 printable characters"),
            ({"role": "viewer", "name": "a\nb"}, "needed 1 to 200 printable characters"),
            ({"role": "viewer", "name": "a" * 201}, "needed 1 to 200 printable characters"),
            ({"role": "viewer", "expires_days": 0}, "expires_days is 0, needed a number above 0"),
            ({"role": "viewer", "expires_days": float("nan")}, "expires_days is nan, needed"),
            ({"role": "viewer", "expires_days": 1e9}, "expires_days is 1e.09, needed"),
        ],
    )
    def test_what_no_token_can_be_is_refused(self, tokens, arguments, message):
        with pytest.raises(InputError, match=message):
            tokens.create(**arguments)
        assert list(tokens.list()) == []

    def test_revoking_a_token_that_is_not_there_says_so(self, tokens):
        with pytest.raises(InputError, match="there is no token 7"):
            tokens.revoke(7)

    def test_valid_tokens_are_told_by_what_they_allow(self, storage, tokens):
        assert not tokens.any_valid("viewer")
        tokens.create("viewer")
        assert tokens.any_valid("viewer") and not tokens.any_valid("operator")
        tokens.create("admin")
        assert tokens.any_valid("operator")
        change(storage, TOKENS, expires_at=PAST)
        assert not tokens.any_valid("viewer")

    # ------------------------------------------------------------------ sessions

    def test_a_session_is_found_by_its_cookie_until_it_is_ended(self, sessions):
        cookie, other = sessions.create("login", "admin"), sessions.create("b", "viewer")
        found = sessions.find(cookie)
        assert (found.name, found.role, found.token_id) == ("login", "admin", None)
        assert sessions.find(cookie[:-1]) is None
        sessions.end(cookie)
        assert sessions.find(cookie) is None and sessions.find(other) is not None

    def test_a_session_ends_with_its_token(self, storage, tokens, sessions):
        token, _ = tokens.create("operator")
        cookie = sessions.create("a", "operator", token=token)
        assert sessions.find(cookie).token_id == token.id
        change(storage, TOKENS, expires_at=PAST)
        assert sessions.find(cookie) is None
        change(storage, TOKENS, expires_at=SOON)
        assert sessions.find(cookie) is not None
        tokens.revoke(token.id)
        change(storage, TOKENS, revoked_at=None)
        assert sessions.find(cookie) is None, "revoking removed the session itself"

    def test_a_session_that_nobody_uses_ends(self, storage, sessions):
        cookie = sessions.create("a", "admin")
        change(storage, SESSIONS, expires_at=PAST)
        assert sessions.find(cookie) is None

    def test_using_a_session_extends_it_but_not_for_ever(self, storage, sessions):
        cookie = sessions.create("a", "admin")
        change(storage, SESSIONS, expires_at=SOON)
        sessions.find(cookie)
        assert moment_of(sessions.find(cookie).expires_at) > present() + IDLE - timedelta(hours=1)
        began = present() - LONGEST + timedelta(hours=3)
        soon = written(present() + timedelta(hours=1))
        change(storage, SESSIONS, created_at=written(began), expires_at=soon)
        sessions.find(cookie)
        assert sessions.find(cookie).expires_at == written(began + LONGEST)

    def test_sessions_are_bounded_and_expired_ones_are_removed(self, storage, sessions):
        first = sessions.create("first", "viewer")
        change(storage, SESSIONS, expires_at=PAST)
        sessions.create("second", "viewer")
        count = text("SELECT count(*) FROM sessions")
        assert storage.database.read(lambda c: c.execute(count).scalar_one()) == 1
        rows = [
            {
                "digest": f"{n:064}",
                "name": "x",
                "role": "viewer",
                "created_at": written(present() - timedelta(hours=1)),
                "expires_at": SOON,
            }
            for n in range(MOST)
        ]
        storage.database.write(None, lambda c: c.execute(SESSIONS.insert(), rows))
        newest = sessions.create("third", "viewer")
        assert storage.database.read(lambda c: c.execute(count).scalar_one()) == MOST
        assert sessions.find(newest) is not None and sessions.find(first) is None

    # ------------------------------------------------------------------ audit

    def test_the_audit_is_read_newest_first_in_pages(self, audit):
        for n in range(5):
            audit.add(
                who=f"u{n}",
                role="operator",
                action="POST /studies",
                target="/studies",
                status=200 + n,
                address="::1",
            )
        first = audit.page(limit=2)
        assert [row.who for row in first] == ["u4", "u3"]
        second = audit.page(before=first[-1].id, limit=10)
        assert [(row.who, row.status) for row in second] == [("u2", 202), ("u1", 201), ("u0", 200)]

    def test_texts_of_strangers_are_cut_and_stored(self, storage, audit):
        for text_ in ("x" * 5000, "a\0b", "\udcff"):
            audit.add(who=text_, role="none", action=text_, target=text_, status=401, address=text_)
        rows = audit.page()
        assert [len(row.address) for row in rows][-1] == 100 and len(rows[-1].who) == 200
        assert "\0" not in cells(storage, AUDIT)
