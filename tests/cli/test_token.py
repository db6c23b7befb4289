import subprocess
import sys

import pytest

from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.sql import SqlStorage


def test_a_token_can_be_made_before_there_is_a_study(moeash, tmp_path):
    made = moeash("token", "create", "--role", "operator", "--json").json
    tokens = Tokens(SqlStorage(tmp_path / "moeash.db", create=False).database)
    assert tokens.find(made["token"]).role == "operator"
    assert (made["id"], made["name"], made["state"]) == (1, "operator", "valid")


def test_a_token_is_made_where_storage_says_and_while_others_have_it_open(moeash, tmp_path):
    place = tmp_path / "b.db"
    opened = SqlStorage(place)
    moeash("token", "create", "--role", "admin", "--name", "Ada", "--storage", place)
    assert [t.name for t in Tokens(opened.database).list()] == ["Ada"]


def test_the_secret_is_all_there_is_on_stdout(moeash):
    answer = moeash("token", "create", "--role", "viewer", "--expires-days", "2")
    (secret,), (rest,) = answer.out.splitlines(), answer.err.splitlines()
    assert secret.startswith("moeash_") and " " not in secret
    assert rest.startswith("token 1 of viewer (viewer, until 2") and "not shown again" in rest


def test_a_list_shows_what_became_of_each_and_no_secret(moeash):
    secrets = [moeash("token", "create", "--role", "viewer", "--json").json["token"] for _ in "ab"]
    assert moeash("token", "revoke", "1").out == "token 1 of viewer is revoked\n"
    answer = moeash("token", "list")
    assert [line.split()[:4] for line in answer.out.splitlines()[2:]] == [
        ["1", "viewer", "viewer", "revoked"],
        ["2", "viewer", "viewer", "valid"],
    ]
    states = moeash("token", "list", "--json")
    assert [token["state"] for token in states.json] == ["revoked", "valid"]
    assert not any(secret in answer.out + states.out for secret in secrets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token"], "missing command (see moeash token --help)"),
        (["token", "create"], "missing option '--role'. Choose from: viewer, operator, admin"),
        (["token", "create", "--role", "root"], "'root' is not one of 'viewer', 'operator'"),
        (["token", "create", "--role", "viewer", "--expires-days", "-1"], "expires_days is -1"),
        (["token", "list"], "there is no database"),
        (["token", "revoke", "1"], "there is no database"),
    ],
)
def test_bad_usage_is_one_line_and_makes_no_database(moeash, tmp_path, arguments, message):
    answer = moeash(*arguments)
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1
    assert "--expires-days" in arguments or not list(tmp_path.iterdir())


def test_revoking_what_is_not_there_is_bad_usage(moeash):
    moeash("token", "create", "--role", "viewer")
    answer = moeash("token", "revoke", "9")
    assert answer.code == 2 and "there is no token 9" in answer.err


@pytest.mark.slow
def test_making_a_token_loads_no_torch(tmp_path):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: sys.stderr.write(str('torch' in sys.modules)))\n"
        "sys.argv = ['moeash', 'token', 'create', '--role', 'viewer']\n"
        "from moeash.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == "False"
