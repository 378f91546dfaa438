"""The public suite, on each backend, and what only one of them has."""

from pathlib import Path

import pytest

from artifact_pipelines.errors import ConfigurationError, HomeError, MissingObjectError
from artifact_pipelines.store import files
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.files import FileBackend
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines.store.s3 import S3Backend
from artifact_pipelines.testing import BackendTests
from artifact_pipelines_tests.servers import SeaweedFS


class TestFileBackend(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return FileBackend(tmp_path / "a store")

    def raw_put(self, backend: Backend, key: str, data: bytes) -> None:
        assert isinstance(backend, FileBackend)
        path = backend.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_get(self, backend: Backend, key: str) -> bytes | None:
        assert isinstance(backend, FileBackend)
        path = backend.root / key
        return path.read_bytes() if path.is_file() else None


class TestMemoryBackend(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return MemoryBackend.named(tmp_path.name)

    def raw_put(self, backend: Backend, key: str, data: bytes) -> None:
        assert isinstance(backend, MemoryBackend)
        backend._objects[key] = (data, 0.0)

    def raw_get(self, backend: Backend, key: str) -> bytes | None:
        assert isinstance(backend, MemoryBackend)
        return backend._objects.get(key, (None, 0.0))[0]


class TestS3Backend(BackendTests):
    turns = 1

    @pytest.fixture
    def backend(self, seaweedfs: SeaweedFS, s3_url: str) -> Backend:
        self.server = seaweedfs
        return S3Backend(s3_url)

    def raw_put(self, backend: Backend, key: str, data: bytes) -> None:
        assert isinstance(backend, S3Backend)
        self.server.client().put_object(**backend.address(key), Body=data)

    def raw_get(self, backend: Backend, key: str) -> bytes | None:
        assert isinstance(backend, S3Backend)
        client = self.server.client()
        try:
            return bytes(client.get_object(**backend.address(key))["Body"].read())
        except client.exceptions.NoSuchKey:
            return None


@pytest.mark.parametrize(
    "url",
    ["gs://bucket/prefix", "file://host/path", "file:relative", "/plain/path", "http://x", ""],
)
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not supported"):
        open_backend(url)


def test_a_memory_of_another_name_is_another_store(tmp_path: Path) -> None:
    open_backend(f"memory://{tmp_path.name}-one").put("key", b"")

    assert open_backend(f"memory://{tmp_path.name}-two").size("key") is None


def test_links_and_strange_files_are_no_objects(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "store")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / "folder").symlink_to(tmp_path)
    (tmp_path / "store" / ".DS_Store").write_bytes(b"")

    assert list(backend.keys()) == []
    assert backend.size("link") is None
    with pytest.raises(MissingObjectError):
        backend.get("link")


@pytest.mark.parametrize(
    "line, kind",
    [
        ("server:/data /mnt/my\\040data nfs4 rw 0 0", "nfs4"),
        ("//server/data /mnt cifs rw 0 0", "cifs"),
        ("user@server: /mnt/my\\040data/home fuse.sshfs rw 0 0", "fuse.sshfs"),
    ],
)
def test_a_network_file_system_is_refused(
    monkeypatch: pytest.MonkeyPatch, line: str, kind: str
) -> None:
    table = f"/dev/sda1 / ext4 rw 0 0\n{line}\n/dev/sdb /mnt/my ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)
    with pytest.raises(HomeError, match=rf"\({kind}\).*S3 store with a Postgres catalog"):
        FileBackend(Path("/mnt/my data/home"))

    assert not Path("/mnt/my data").exists()


def test_a_local_disk_below_a_network_mount_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    table = "server:/ /mnt nfs rw 0 0\n/dev/sdb /mnt/disk ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)
    files.check_file_system(Path("/mnt/disk/home"))
    with pytest.raises(HomeError):
        files.check_file_system(Path("/mnt/diskette"))
