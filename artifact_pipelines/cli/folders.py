"""What `doctor` finds of the folders: whether there is room, and who may read and write them."""

import os
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from artifact_pipelines.settings import Settings

Check = tuple[str, str, str]

ROOM = 1 << 30
"""Free bytes below which it is worth a word."""
NO_ROOM = 64 << 20
"""Free bytes below which a publish of any size is likely to fail."""


def folder_checks(found: Settings) -> list[Check]:
    """Return the name, state and finding of every check of the folders."""
    folders = {"home": found.home, "keys": found.keys, "dagster home": found.dagster_home}
    store = urlsplit(found.store_url)
    if store.scheme == "file":
        folders["store"] = Path(unquote(store.path))
    return [*_room(folders), *_permissions(folders)]


def _room(folders: dict[str, Path]) -> list[Check]:
    """Return how much is free on each file system that something is on."""
    # Restores, drills and training files pass through the temporary folder.
    places = {**folders, "temporary files": Path(tempfile.gettempdir())}
    disks: dict[int, list[str]] = {}
    for name, folder in places.items():
        disks.setdefault(_there(folder).stat().st_dev, []).append(name)
    checks = []
    for names in disks.values():
        folder = _there(places[names[0]])
        free = shutil.disk_usage(folder).free
        said = f"{free / (1 << 30):.1f} GiB are free for {', '.join(names)}, at {folder}"
        if free < NO_ROOM:
            checks.append(("disk", "fail", f"{said}: make room, or nothing can be published."))
        elif free < ROOM:
            checks.append(("disk", "warn", f"{said}: make room; prune frees what was forgotten."))
        else:
            checks.append(("disk", "ok", f"{said}."))
    return checks


def _permissions(folders: dict[str, Path]) -> list[Check]:
    """Return which folders this account cannot write, and which others can."""
    wrong: list[Check] = []
    for name, folder in folders.items():
        if not folder.is_dir():
            continue
        seen = folder.stat()
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            said = f"this account cannot write {name}, {folder}: change its owner or its mode."
            wrong.append(("permissions", "fail", said))
        elif seen.st_mode & stat.S_IWOTH:
            said = f"everybody can write {name}, {folder}: chmod o-w {folder}"
            wrong.append(("permissions", "fail", said))
        elif seen.st_uid != os.geteuid():
            said = (
                f"{name}, {folder}, belongs to the account {seen.st_uid}, and this one is "
                f"{os.geteuid()}: what one writes, the other may not read; use one account."
            )
            wrong.append(("permissions", "warn", said))
    return wrong or [("permissions", "ok", "this account owns and can write every folder.")]


def _there(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
