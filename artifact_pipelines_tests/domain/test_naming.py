"""Names, paths and references."""

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from artifact_pipelines.domain import naming
from artifact_pipelines.domain.naming import DigestRef, ModelRef, NameRef, NumberedRef, StageRef
from artifact_pipelines.errors import InvalidNameError

CHECKS = [naming.check_project, naming.check_run, naming.check_dataset, naming.check_stage]
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ["digits", "run-0007", "a", "0", "A.b_c-d", "x" * 128, "v", "v1a"])
def test_a_plain_name_is_taken_as_it_is(check: Callable[[str], str], name: str) -> None:
    assert check(name) == name


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        "a.",
        "-a",
        "_a",
        "a/b",
        "a\\b",
        "a b",
        "a@b",
        "a\n",
        "a\x00",
        "ä",
        "x" * 129,
        "con",
        "NUL.txt",
        "Com1",
        "lpt9.x",
        "%2e%2e",
        "a#b",
        None,
        5,
        ["a"],
    ],
)
def test_a_name_that_could_harm_a_path_or_a_url_is_refused(
    check: Callable[[object], str], name: object
) -> None:
    with pytest.raises(InvalidNameError):
        check(name)


@pytest.mark.parametrize("check", CHECKS[1:])
@pytest.mark.parametrize("name", ["v1", "V12", "v007", "latest", "Latest"])
def test_a_name_that_reads_as_a_version_is_refused(check: Callable[[str], str], name: str) -> None:
    with pytest.raises(InvalidNameError, match="reads as a version"):
        check(name)


@pytest.mark.parametrize("name", ["canary", "Canary", "registry"])
def test_a_project_may_not_take_the_name_of_one_of_the_platform(name: str) -> None:
    assert naming.check_project(name) == name
    with pytest.raises(InvalidNameError, match=f"project name '{name}' is the platform's own"):
        naming.check_own_project(name)


@pytest.mark.parametrize("name", ["training_run", "checkpoints", "Production", "cleanup"])
def test_a_dataset_may_not_take_the_name_of_another_asset(name: str) -> None:
    with pytest.raises(InvalidNameError, match="taken by an asset"):
        naming.check_dataset(name)


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["model.safetensors"],
        ["a/b/c.txt", "a/b/d.txt", "a/e", "b"],
        ["déjà vu.txt"],
        ["👩\u200d🔬.json"],
        ["a b", "...", "a..b/c"],
        ["ab", "a/b"],
        ["p" * 255],
    ],
)
def test_plain_paths_are_taken_as_they_are(paths: list[str]) -> None:
    assert naming.check_paths(paths) == paths


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "./a",
        "a/.",
        "a//b",
        "a/",
        "a\\b",
        "C:/x",
        "c:x",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "a\u202egnp.exe",
        "a\u2066b",
        "a\ud800b",
        "e\u0301",
        "p" * 256,
        "/".join(["p" * 200] * 6),
        "ä" * 128,
    ],
)
def test_a_path_that_is_not_safe_to_write_is_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        naming.check_paths(["fine", path])


@pytest.mark.parametrize(
    "paths, match",
    [
        (["a", "a"], "twice"),
        (["a", "A"], "same file"),
        (["Straße", "STRASSE"], "same file"),
        (["ﬁle", "file"], "same file"),
        (["é/x", "É/x"], "same file"),
        (["a", "a/b"], "folder of"),
        (["a/b/c", "a"], "folder of"),
        (["A/b", "a"], "folder of"),
    ],
)
def test_paths_that_cannot_exist_together_are_refused(paths: list[str], match: str) -> None:
    with pytest.raises(InvalidNameError, match=match):
        naming.check_paths(paths)


@given(st.text(max_size=30))
def test_a_path_that_is_taken_stays_below_its_root(path: str) -> None:
    try:
        naming.check_paths([path])
    except InvalidNameError:
        return

    parts = path.split("/")
    assert ".." not in parts
    assert "" not in parts
    assert unicodedata.normalize("NFC", path) == path
    assert path.encode()


@given(st.lists(st.text("aAbß/", min_size=1, max_size=5), max_size=6))
def test_paths_that_are_taken_are_files_that_ignore_case(paths: list[str]) -> None:
    try:
        naming.check_paths(paths)
    except InvalidNameError:
        return

    folded = [path.casefold() for path in paths]
    assert len(set(folded)) == len(folded)
    assert not any(
        other.startswith(path + "/") for path in folded for other in folded if other != path
    )


@pytest.mark.parametrize(
    "text, reference",
    [
        ("digits@production", StageRef("digits", "production")),
        ("digits/v3", ModelRef("digits", 3)),
        ("digits/run-0007@120", NumberedRef("digits", "run-0007", 120)),
        ("digits/run-0007@0", NumberedRef("digits", "run-0007", 0)),
        ("digits/images@latest", NumberedRef("digits", "images", "latest")),
        ("digits/run-0007", NameRef("digits", "run-0007")),
        ("3fa9c1", DigestRef("3fa9c1")),
        ("a" * 64, DigestRef("a" * 64)),
        ("deadbeef/x", NameRef("deadbeef", "x")),
    ],
)
def test_each_way_to_write_a_reference_is_understood(
    text: str, reference: naming.Reference
) -> None:
    assert naming.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "digits",
        "@",
        "/",
        "digits@",
        "@production",
        "digits@v3",
        "digits/",
        "/run",
        "digits/v0",
        "digits/v03",
        "digits/V3",
        "digits/v3@5",
        "digits/run@",
        "digits/run@05",
        "digits/run@-1",
        "digits/run@newest",
        "digits/run@1@2",
        "digits/run@9999999999999999",
        "a/b/c",
        "digits@production@1",
        "3fa9c",
        "3FA9C1",
        "a" * 65,
        "digits/run@\u0661",
        " digits/run",
        "digits/run\n",
    ],
)
def test_a_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        naming.parse(text)


@given(
    st.text("ab1v/@.-lates", max_size=14)
    | st.from_regex(r"[a-f0-9]{5,9}|[ab]{1,2}(/[av][0-9]{0,2})?(@[a0-9]{1,2})?", fullmatch=True)
)
def test_a_reference_is_written_as_it_was_read(text: str) -> None:
    try:
        reference = naming.parse(text)
    except InvalidNameError:
        return

    assert str(reference) == text


@given(NAMES, NAMES, st.integers(0, 2**49) | st.just("latest"))
def test_every_checked_name_makes_a_reference(project: str, name: str, number: int | str) -> None:
    try:
        naming.check_project(project)
        naming.check_run(name)
    except InvalidNameError:
        assume(False)

    assert naming.parse(f"{project}/{name}") == NameRef(project, name)
    assert str(naming.parse(f"{project}/{name}@{number}")) == f"{project}/{name}@{number}"
    assert naming.parse(f"{project}@{name}") == StageRef(project, name)
