"""Whoever reads a message, a list or a log reads no password."""

import pytest

import moeash
from moeash.errors import StorageError
from moeash.study.storage.engines.urls import without_password

SECRETS = {
    "postgresql+psycopg://me:s3cret@host/db": "postgresql+psycopg://me:***@host/db",
    "postgresql://me:s3/cr?et@host:99x/db": "postgresql://me:***@host:99x/db",
    "postgresql://me:s3:c@r3t@host/db": "postgresql://me:***@host/db",
    "postgresql://:s3cret@host": "postgresql://:***@host",
    "postgresql://host/db?user=me&password=s3cret": "postgresql://host/db?user=me&password=***",
    "postgresql://h/db?sslpassword=s&x=1&PASSWORD=s": (
        "postgresql://h/db?sslpassword=***&x=1&PASSWORD=***"
    ),
    "mysql://me@h/db?passwd=s3cret": "mysql://me@h/db?passwd=***",
    "postgresql://h/db?pass%77ord=s3cret&x=1": "postgresql://h/db?pass%77ord=***&x=1",
    "odbc://h/db?odbc_connect=x;PWD=s3cret": "odbc://h/db?odbc_connect=x;PWD=***",
}


@pytest.mark.parametrize("url", SECRETS)
def test_passwords_are_stars_wherever_a_url_has_them(url):
    assert without_password(url) == SECRETS[url]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me@host:5432/db?sslmode=require&passfile=/home/me/.pgpass",
        "sqlite:////home/a:b@c/x.db",
        "sqlite:///x.db",
        "a@b:c",
    ],
)
def test_what_has_no_password_stays_as_it_is(url):
    assert without_password(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/db?password=s3cret",
        "postgresql+psycopg://me:s3cret@127.0.0.1:port/db",
        "postgresql+psycopg://me:s3cret@[::1/db",
        "postgresql+other://me:s3cret@127.0.0.1/db?password=s3cret",
        "mysql://me:s3cret@127.0.0.1/db?passwd=s3cret",
        "sqlite:///x.db?password=s3cret",
        "nothing://me:s3cret@h",
    ],
)
def test_no_message_about_storage_has_a_password(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as caught:
        moeash.open_storage(url, patience_s=0.1)
    assert "s3cret" not in str(caught.value)
