import contextlib
import hashlib
import json
import threading

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from moeash.service.access.roots import Roots
from moeash.service.access.uploads import Uploads
from moeash.service.access.uses import Uses
from moeash.service.protection.bodies import BodyLimits
from moeash.service.routes import files
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing
from tests.contracts.storage import facts
from tests.service.serving import API, PAGE, Service, real_server

FILES = "/api/v1/files"
SAFE = save({"a": np.zeros((2, 3), np.float32)})
OTHER = save({"a": np.ones((2, 3), np.float32)})


class Uploading(Service):
    def __init__(self, folder, *, most_bytes=1 << 20, most_total=1 << 30, limits=None):
        super().__init__(
            folder, limits=limits or BodyLimits(n_bytes=100, by_path={FILES: most_bytes})
        )
        self.roots = Roots(folder / "own")
        uploads = Uploads(self.roots.uploads, most_bytes=most_bytes, most_total=most_total)
        self.launches = Launches(self.storage.database)
        uses = Uses(self.storage, Listing(self.storage.database), self.launches)
        self.framework.include_router(files.router(self.auth, uploads, uses), prefix=API)

    @property
    def folder(self):
        return self.roots.uploads

    @property
    def stored(self):
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def service(tmp_path):
    service = Uploading(tmp_path)
    yield service
    service.close()


def upload(service, name="w.safetensors", content=SAFE, role="operator", **headers):
    return service.client().post(
        FILES, params={"name": name}, content=content, headers=service.bearer(role) | headers
    )


@pytest.mark.parametrize(("role", "post", "get"), [(None, 401, 401), ("viewer", 403, 200)])
def test_only_operators_upload_and_viewers_see(service, role, post, get):
    headers = {} if role is None else service.bearer(role)
    client = service.client()
    answer = client.post(FILES, params={"name": "w.safetensors"}, content=SAFE, headers=headers)
    assert (answer.status_code, client.get(FILES, headers=headers).status_code) == (post, get)
    assert service.stored == []


def test_an_uploaded_file_is_stored_listed_and_found_by_specs(service):
    answer = upload(service)
    assert answer.status_code == 201
    made = answer.json()
    assert made == {
        "name": "w.safetensors",
        "path": str(service.folder / "w.safetensors"),
        "size_bytes": len(SAFE),
        "sha256": hashlib.sha256(SAFE).hexdigest(),
        "uploaded_by": "operator",
    }
    assert (service.folder / "w.safetensors").read_bytes() == SAFE
    listed = service.client().get(FILES, headers=service.bearer("viewer")).json()
    assert listed == {"items": [made]}
    spec = service.roots.admit(
        'name="a"\n[network]\nsource="lenet5"\ncheckpoint="w.safetensors"\n'
        '[data]\nsource="digits"\n[data.splits]\nsearch={part="all"}\n'
    )
    assert spec.network.checkpoint == made["path"]


def test_the_page_uploads_with_its_cookie_and_others_do_not(service):
    client = service.client()
    client.post("/api/v1/session", json={"code": service.auth.login_code()}, headers=PAGE)
    raw = {"Content-Type": "application/octet-stream"}
    params = {"name": "w.safetensors"}
    for headers in (raw, PAGE | {"Content-Type": "text/plain"}, raw | {"Origin": "http://a.b"}):
        answer = client.post(FILES, params=params, content=SAFE, headers=headers)
        assert answer.status_code in (403, 415) and service.stored == []
    assert client.post(FILES, params=params, content=SAFE, headers=PAGE | raw).status_code == 201


@pytest.mark.parametrize(
    "name",
    [
        "../w.safetensors",
        "/etc/w.safetensors",
        "a/w.safetensors",
        "a\\w.safetensors",
        "..safetensors",
        ".safetensors",
        ".moeash-0123456789abcdef.tmp",
        ".lock",
        "w.safetensors\n",
        "w.pkl",
        "w.py",
        "w",
        "",
        "é.pt",
        "x" * 190 + ".safetensors",
        "~.pt",
        "%2e%2e%2fw.pt",
        "w.SAFETENSORS",
    ],
)
def test_a_name_that_is_no_plain_one_is_refused(service, name):
    answer = upload(service, name)
    assert answer.status_code == 422 and service.stored == []


def test_a_name_with_a_null_character_is_refused_as_an_address(service):
    answer = upload(service, "w.safetensors\0.toml")
    assert answer.status_code == 400 and service.stored == []


def test_what_is_not_what_its_name_says_is_not_kept(service):
    for name, content in (("w.safetensors", b"#!/bin/sh"), ("w.pt", SAFE), ("s.toml", b"a =")):
        answer = upload(service, name, content)
        assert answer.status_code == 422 and service.stored == [], name


def test_the_same_file_again_is_no_other_and_another_does_not_replace_it(service):
    assert [upload(service).status_code for _ in "ab"] == [201, 200]
    answer = upload(service, content=OTHER)
    assert answer.status_code == 409 and answer.json()["type"] == "/problems/file-exists"
    assert (service.folder / "w.safetensors").read_bytes() == SAFE
    assert service.stored == ["w.safetensors"]


def test_a_link_in_the_folder_is_neither_followed_nor_listed(service, tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(OTHER)
    (service.folder / "w.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (service.folder / "v.safetensors").symlink_to(tmp_path / "nothing.safetensors")
    assert upload(service).status_code == 409
    assert upload(service, "v.safetensors").status_code == 409
    assert not (tmp_path / "nothing.safetensors").exists()
    listed = service.client().get(FILES, headers=service.bearer("viewer"))
    assert listed.json() == {"items": []}


def test_a_file_that_is_too_large_is_refused_told_or_not(tmp_path):
    service = Uploading(tmp_path, most_bytes=1000)
    big = b"x" * 5000
    with real_server(service.app) as port:
        for content in (big, iter([big[:900], big[900:]])):
            answer = httpx.post(
                f"http://127.0.0.1:{port}{FILES}?name=w.pt",
                content=content,
                headers=service.bearer("operator"),
                timeout=60,
            )
            assert answer.status_code == 413
    assert service.stored == []
    service.close()


def test_files_beyond_the_room_for_all_are_refused(tmp_path):
    service = Uploading(tmp_path, most_total=len(SAFE) + 10)
    assert upload(service).status_code == 201
    answer = upload(service, "v.safetensors")
    assert answer.status_code == 507 and service.stored == ["w.safetensors"]
    service.close()


def test_a_large_file_goes_to_disk_as_it_comes_and_one_broken_off_leaves_nothing(tmp_path):
    service = Uploading(tmp_path, most_bytes=1 << 30)
    pieces, seen, broken = 24, [], threading.Event()

    def slowly():
        for n in range(pieces):
            yield b"x" * (1 << 20)
            if n == pieces - 2:
                seen.append(sum(path.stat().st_size for path in service.folder.iterdir()))
                broken.set()
                raise KeyError("broken off")

    with real_server(service.app) as port:
        with pytest.raises(KeyError):
            httpx.post(
                f"http://127.0.0.1:{port}{FILES}?name=w.pt",
                content=slowly(),
                headers=service.bearer("operator"),
                timeout=60,
            )
        for _ in range(100):
            if service.stored == []:
                break
            threading.Event().wait(0.05)
    assert seen[0] > 8 << 20, "it lay in memory"
    assert service.stored == []
    service.close()


def test_an_upload_that_drips_is_given_up_and_leaves_nothing(tmp_path):
    limits = BodyLimits(by_path={FILES: 1 << 20}, grace_s=0.3, bytes_per_s=10_000)
    service = Uploading(tmp_path, limits=limits)

    def dripping():
        for _ in range(20):
            yield b"x"
            threading.Event().wait(0.05)

    with real_server(service.app) as port:
        try:
            status = httpx.post(
                f"http://127.0.0.1:{port}{FILES}?name=w.pt",
                content=dripping(),
                headers=service.bearer("operator"),
                timeout=60,
            ).status_code
        except httpx.TransportError:  # it was still sending when the server had closed
            status = 408
    assert status == 408 and service.stored == []
    service.close()


def bearer_of(service, name, role="operator"):
    return {"Authorization": f"Bearer {service.auth.tokens.create(role, name=name)[1]}"}


def delete(service, headers, name="w.safetensors"):
    return service.client().delete(f"{FILES}/{name}", headers=headers)


def problem(answer):
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_who_uploaded_a_file_deletes_it_and_its_name_is_free(service):
    ada, bob = bearer_of(service, "ada"), bearer_of(service, "bob")
    assert upload(service, **ada).json()["uploaded_by"] == "ada"
    assert problem(delete(service, bob)) == (403, "not-yours")
    assert service.stored == ["w.safetensors"]
    assert delete(service, ada).status_code == 204
    assert list(service.folder.iterdir()) == [service.folder / ".lock"]
    assert problem(delete(service, ada)) == (404, "no-such-file")
    assert upload(service, content=OTHER, **bob).json()["uploaded_by"] == "bob"


def test_an_admin_deletes_what_is_anybodys(service):
    upload(service, **bearer_of(service, "ada"))
    assert delete(service, bearer_of(service, "boss", "admin")).status_code == 204
    (service.folder / "found.safetensors").write_bytes(SAFE)
    assert problem(delete(service, bearer_of(service, "ada"), "found.safetensors"))[0] == 403
    assert delete(service, bearer_of(service, "boss", "admin"), "found.safetensors").is_success


@pytest.mark.parametrize("name", [".lock", "nothing.pt", "..%2Fa.db", "link.safetensors"])
def test_nothing_but_uploads_is_deleted(service, tmp_path, name):
    (tmp_path / "outside.safetensors").write_bytes(SAFE)
    (service.folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (service.folder / ".lock").touch()
    assert delete(service, service.bearer("admin"), name).status_code == 404
    assert (service.folder / "link.safetensors").is_symlink() and (tmp_path / "a.db").exists()
    assert (service.folder / ".lock").exists()


@pytest.mark.parametrize("how", ["waits", "runs", "is exported", "reads the folder"])
def test_a_file_that_a_study_needs_is_not_deleted(service, how):
    path = upload(service).json()["path"]
    spec = {"network": {"source": "x", "checkpoint": path}}
    if how == "reads the folder":
        spec = {"data": {"source": "npz", "root": str(service.folder)}}
    study = service.storage.create_study(facts(name="user", spec=spec))
    service.storage.set_status(study.id, "finished")
    admin = service.bearer("admin")
    held = contextlib.nullcontext()
    if how == "waits":
        setting = f"network.checkpoint={json.dumps(path)}"
        service.launches.add("run", "later", {"spec": "", "settings": [setting]}, "ada")
    elif how == "is exported":
        service.launches.add("export", "user", {}, "ada")
    else:
        service.storage.set_status(study.id, "running")
        held = service.storage.lock("user")
    with held:
        assert problem(delete(service, admin)) == (409, "file-in-use")
    for launch in service.launches.active():
        service.launches.end(launch.id, 0, None)
    assert delete(service, admin).status_code == 204
