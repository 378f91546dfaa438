"""What only a bucket does: parts, lost replies, servers that go, and what is said of them."""

import os
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import ConfigurationError, StoreError
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines.store import s3
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines.store.s3 import PART, S3Backend
from artifact_pipelines_tests import building
from artifact_pipelines_tests.servers import (
    READER_KEY,
    READER_SECRET,
    Proxy,
    SeaweedFS,
    environment,
    serving,
)

LARGE = 3 * PART + 5  # needs four parts


@pytest.fixture
def backend(s3_url: str) -> S3Backend:
    return S3Backend(s3_url)


@pytest.fixture
def proxy(
    seaweedfs: SeaweedFS, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, S3Backend]]:
    """A backend behind a network that can fail."""
    between = Proxy(seaweedfs.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.port}")
    yield between, S3Backend(s3_url)
    between.close()


def pattern(size: int) -> bytes:
    """Return bytes of which no two parts are equal."""
    block = bytes(range(251)) * 17
    return (block * (size // len(block) + 1))[:size]


# Objects of any size


def test_a_large_object_goes_in_parts_and_comes_back(backend: S3Backend) -> None:
    data = pattern(LARGE)
    with backend.create("packs/ab/large") as writer:
        for start in range(0, LARGE, 5_000_001):
            writer.write(memoryview(data)[start : start + 5_000_001])

        assert backend.size("packs/ab/large") is None
        writer.commit()
    found = backend.client.head_object(**backend.address("packs/ab/large"), PartNumber=1)

    assert found["PartsCount"] == 4
    assert backend.get("packs/ab/large") == data
    assert backend.get("packs/ab/large", PART - 3, 6) == data[PART - 3 : PART + 3]
    assert backend.sweep_temporaries(0) == 0


def test_a_large_object_replaces_nothing(backend: S3Backend) -> None:
    with backend.create("one") as writer:
        writer.write(pattern(LARGE))
        backend.put("one", b"early")
        with pytest.raises(StoreError, match="there already; it is not replaced"):
            writer.commit()

    assert backend.get("one") == b"early"
    assert list(backend._uploads()) == []


def test_a_writer_holds_a_few_parts_only(backend: S3Backend) -> None:
    piece = bytes(PART // 2)
    tracemalloc.start()
    with backend.create("one") as writer:
        for _ in range(24):
            writer.write(piece)
        writer.commit()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert backend.size("one") == 12 * PART
    assert peak < 6 * PART


def test_a_large_writer_that_gives_up_leaves_no_upload(backend: S3Backend) -> None:
    with backend.create("one") as writer:
        writer.write(pattern(LARGE))

        assert len(list(backend._uploads())) == 1
    assert list(backend._uploads()) == []
    assert list(backend.keys()) == []


def test_a_sweep_aborts_what_a_dead_writer_left(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, living = backend.create("dead"), backend.create("living")
    dead.write(pattern(LARGE))
    monkeypatch.setattr(s3, "_living", set())
    living.write(pattern(LARGE))

    assert backend.sweep_temporaries(3600) == 0
    assert backend.sweep_temporaries(0) == 1
    living.commit()
    with pytest.raises(StoreError, match=r"'dead'.*swept; try again"):
        dead.commit()
    assert list(backend.keys()) == ["living"]


def test_stores_in_one_bucket_do_not_see_each_other(backend: S3Backend) -> None:
    inner = S3Backend(f"{backend.url}/inner")
    inner.put("one", b"1")
    longer = S3Backend(f"{backend.url}-2")
    longer.create("two").write(pattern(LARGE))

    assert backend.get("inner/one") == b"1"
    assert list(longer.keys()) == []
    assert list(S3Backend(backend.url)._uploads()) == []
    assert longer.sweep_temporaries(0) == 0


def test_a_listing_goes_over_pages(backend: S3Backend) -> None:
    names = [f"leaves/{number:016d}" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: backend.put(name, b""), names))

    assert list(backend.keys("leaves/")) == names
    assert list(backend.keys("leaves/000000000000109")) == names[1090:]


# Who was first


def test_of_32_writers_at_the_same_time_one_wins(backend: S3Backend) -> None:
    gate = threading.Barrier(32)

    def write(number: int) -> bool:
        gate.wait()
        return backend.put("one", str(number).encode(), if_absent=True)

    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(write, range(32)))

    assert won.count(True) == 1
    assert backend.get("one") == str(won.index(True)).encode()


def test_of_32_writers_of_the_same_bytes_one_is_first(backend: S3Backend) -> None:
    """The name of the writer tells them apart, and not the content."""
    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(lambda _: backend.put("one", b"same", if_absent=True), range(32)))

    assert won.count(True) == 1


@pytest.mark.parametrize("times", [1, 3])
def test_a_put_whose_reply_is_lost_knows_its_own_success(
    proxy: tuple[Proxy, S3Backend], times: int
) -> None:
    between, backend = proxy
    between.lose_replies(b"PUT /store/", times)

    assert backend.put("one", b"bytes", if_absent=True) is True
    assert between.lost == times
    assert backend.put("one", b"bytes", if_absent=True) is False


def test_a_put_whose_reply_is_lost_knows_that_another_was_first(
    proxy: tuple[Proxy, S3Backend],
) -> None:
    between, backend = proxy
    backend.put("one", b"first")
    between.lose_replies(b"PUT /store/")

    assert backend.put("one", b"second", if_absent=True) is False
    assert between.lost == 1
    assert backend.get("one") == b"first"


@pytest.mark.parametrize("request_line", [b"PUT /store/", b"POST /store/"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_upload_whose_replies_are_lost_is_completed(
    proxy: tuple[Proxy, S3Backend], request_line: bytes, times: int
) -> None:
    """The parts are sent again, and the completion meets its own object."""
    between, backend = proxy
    data = pattern(LARGE)
    with backend.create("one") as writer:
        writer.write(data)
        between.lose_replies(request_line, times)
        writer.commit()

    assert between.lost == times
    assert backend.get("one") == data


def test_a_read_whose_reply_is_lost_is_repeated(proxy: tuple[Proxy, S3Backend]) -> None:
    between, backend = proxy
    backend.put("one", b"bytes")
    between.lose_replies(b"GET /store/", 2)

    assert backend.get("one", 1, 3) == b"yte"
    between.lose_replies(b"HEAD /store/", 2)
    assert backend.size("one") == 5
    assert between.lost == 4


# What is said


def test_wrong_credentials_are_said(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"refused the access key AKIDTEST.*AWS_SECRET_ACCESS_KEY"):
        S3Backend(s3_url)


def test_no_credentials_are_said(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"no credentials for s3://.*AWS_ACCESS_KEY_ID"):
        S3Backend(s3_url)


@pytest.mark.usefixtures("s3_url")
def test_a_missing_bucket_is_said_and_not_made(seaweedfs: SeaweedFS) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match=r"no bucket .misspelt. at http.*create it"):
            S3Backend("s3://misspelt/prefix")

    buckets = [found["Name"] for found in seaweedfs.client().list_buckets()["Buckets"]]
    assert "misspelt" not in buckets


def test_a_server_that_is_not_there_is_said(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "OPENING_PATIENCE", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"cannot be reached at http://127.0.0.1:9; check"):
        S3Backend(s3_url)


def test_an_endpoint_that_others_can_listen_to_is_refused(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "OPENING_PATIENCE", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:1")
    with pytest.raises(ConfigurationError, match=r"not encrypted.*AWS_ALLOW_HTTP"):
        S3Backend(s3_url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://UPPER/prefix",
        "s3://user:secret@bucket/prefix",
        "s3://bucket:9000/prefix",
        "s3://bucket/a/../b",
        "s3://bucket/prefix?region=x",
        "s3://bucket/tmp",
    ],
)
def test_a_url_of_other_than_plain_names_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="plain names"):
        open_backend(url)


def test_a_reader_opens_what_a_writer_made(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.put("one", b"bytes")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    reader = S3Backend(backend.url)

    assert reader.get("one") == b"bytes"
    with pytest.raises(StoreError, match=f"refused the access key {READER_KEY}"):
        reader.put("two", b"")
    with pytest.raises(StoreError, match=f"refused the access key {READER_KEY}"):
        reader.delete("one")


class Careless(BaseHTTPRequestHandler):
    """A server that takes every object, whatever the conditions."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Careless/1", ""
    objects: dict[str, bytes]

    def do_HEAD(self) -> None:
        found = self.path == "/bucket" or self.path in self.objects
        self._answer(200 if found else 404)

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 09:00:00 GMT")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.usefixtures("s3_url")
def test_a_server_that_lets_a_second_writer_win_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = type("Handler", (Careless,), {"objects": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"Careless/1.*If-None-Match.*honours it"):
                S3Backend("s3://bucket/store")
        server.shutdown()


def test_a_forked_process_is_refused_and_does_not_hang(backend: S3Backend) -> None:
    backend.put("one", b"")
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            backend.get("one")
        except StoreError as error:
            os.write(sender, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(sender)
    with os.fdopen(receiver) as said:
        assert "before this process was forked" in said.read()


# What the server offers


def test_a_bucket_says_what_it_does_with_what_is_deleted(
    backend: S3Backend, seaweedfs: SeaweedFS
) -> None:
    assert backend.protection() == s3.Protection(versioned=False, locked=None)
    client = seaweedfs.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="locked",
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )
    found = S3Backend("s3://locked/store").protection()

    assert found == s3.Protection(versioned=True, locked="COMPLIANCE")


def test_an_object_changes_its_storage_class_and_not_its_bytes(backend: S3Backend) -> None:
    backend.put("packs/ab/one", b"bytes", if_absent=True)

    assert backend.storage_class("packs/ab/one") == "STANDARD"
    backend.set_storage_class("packs/ab/one", "STANDARD_IA")
    assert backend.storage_class("packs/ab/one") == "STANDARD_IA"
    assert backend.get("packs/ab/one") == b"bytes"


class Frozen(Careless):
    """A server that has everything in a class that must be thawed first."""

    def do_GET(self) -> None:
        said = b"<Error><Code>InvalidObjectState</Code><Message>thaw it</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(412)


@pytest.mark.usefixtures("s3_url")
def test_an_object_that_must_be_thawed_is_said_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = type("Handler", (Frozen,), {"objects": {"/bucket/store/tmp/probe": b""}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        backend = S3Backend("s3://bucket/store")
        with pytest.raises(StoreError, match=r"restore-object --bucket bucket --key store/packs/a"):
            backend.get("packs/a", 0, 10)
        server.shutdown()


@pytest.mark.parametrize("size", [100, 2 * s3.PART])
def test_a_cold_object_goes_to_the_class_for_such(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setenv(s3.COLD_CLASS, "standard_ia")
    chosen = S3Backend(backend.url)
    for key, cold in (("packs/ab/cold", True), ("packs/ab/hot", False)):
        with chosen.create(key, cold=cold) as writer:
            writer.write(pattern(size))
            writer.commit()

        assert chosen.storage_class(key) == ("STANDARD_IA" if cold else "STANDARD")
        assert chosen.get(key) == pattern(size)
    late = chosen.create(key, cold=True)
    late.write(b"other")
    with pytest.raises(StoreError, match="is there already"):
        late.commit()
    assert backend.storage_class(key) == "STANDARD"


@pytest.mark.parametrize("name", ["GLACIER", "DEEP_ARCHIVE", "cheap"])
def test_a_class_that_cannot_be_read_at_once_is_refused(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(s3.COLD_CLASS, name)
    with pytest.raises(ConfigurationError, match=r"COLD_CLASS is .*; use one of STANDARD_IA"):
        S3Backend(s3_url)


# A registry


def test_the_cold_tier_stays_in_its_storage_class(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(s3.COLD_CLASS, "STANDARD_IA")
    with open_registry(tmp_path / "home", store_url=s3_url, actor="tester") as registry:
        backend = registry.store.backend
        assert isinstance(backend, S3Backend)
        made = building.trained(registry, steps=4)
        hot = set(backend.keys("packs/"))
        registry.archive([found.reference for found in made[:3]])
        cold = set(backend.keys("packs/")) - hot
        registry.slim(made[0].reference, reason="nobody resumes from it")
        registry.compact(threshold=1.0)
        late = set(backend.keys("packs/")) - hot - cold

        assert late
        assert {backend.storage_class(key) for key in cold | late} == {"STANDARD_IA"}
        assert {backend.storage_class(key) for key in hot} == {"STANDARD"}


def test_a_registry_lives_in_a_bucket(s3_url: str, tmp_path: Path) -> None:
    """From a run to a model in production, read back, retired and pruned, and rebuilt."""
    with open_registry(tmp_path / "home", store_url=s3_url, actor="tester") as registry:
        model = building.promoted(registry, "run-1")
        served = registry.resolve("digits@production")
        target = registry.fetch(model.reference, tmp_path / "served")

        assert served.model == model
        assert (target / "model.safetensors").read_bytes() == building.tensors(2)
        assert registry.verify_ledger().problems == ()
        plan = registry.plan_retention(building.PROJECT)
        registry.approve_plan(plan.id)
        assert registry.apply_plan(plan.id).forgotten
        registry.prune(grace=0)
        pruned = registry.prune(grace=0)
        assert pruned.disagreements == ()
        assert registry.verify(model.reference).ok
    (tmp_path / "home" / "catalog.db").unlink()

    with pytest.raises(Exception, match="catalog rebuild"):
        open_registry(tmp_path / "home", store_url=s3_url, actor="tester")


@pytest.mark.deep
@pytest.mark.parametrize(
    "label", ["session_opened", "chunks_written", "packs_sealed", "object_written", "committed"]
)
def test_a_server_that_is_killed_in_a_publish_loses_nothing_that_was_acknowledged(
    tmp_path: Path, label: str
) -> None:
    """The publish waits for the server, which takes twenty seconds to come back, and goes on."""
    home = tmp_path / "home"
    with serving(tmp_path / "server") as server, environment(server.environ):
        url = server.make_bucket("store") + "/prefix"
        with open_registry(home, store_url=url, actor="tester") as registry:
            run = registry.start_run(building.PROJECT, "run-1")
            files = {step: building.tensors(step, 5_000_000) for step in (1, 2)}
            registry.publish_checkpoint(run, {"model.safetensors": files[1]}, step=1)
            record = Record(
                Kind.CHECKPOINT, building.PROJECT, "run-1", content="0" * 64, run=run.id, step=2
            )
            for reached in registry.publish(Draft(record, {"model.safetensors": files[2]})):
                if reached == label:
                    server.kill()
                    threading.Thread(target=server.start).start()
        with open_registry(home, store_url=url, actor="tester") as registry:
            for step, data in files.items():
                found = registry.read(f"digits/run-1@{step}", "model.safetensors")

                assert found == data
            assert registry.verify_ledger().problems == ()
            assert registry.prune(grace=0).disagreements == ()
