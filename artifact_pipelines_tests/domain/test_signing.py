"""Keys, signed statements and signed tree heads."""

import base64
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest, signing
from artifact_pipelines.domain.signing import (
    PublicKey,
    SignedStatement,
    SigningKey,
    TreeHead,
    check_origin,
    open_head,
    sign_head,
)
from artifact_pipelines.errors import InvalidFormatError, LedgerError

SEED = bytes(range(32))
KEY = SigningKey.from_seed(SEED)
OTHER = SigningKey.from_seed(bytes(32))
PAYLOAD = {"type": "policy", "origin": "log.example", "project": "digits", "policy": "a" * 64}
HEAD = TreeHead("log.example/1", 5, bytes(range(32)), "a" * 64)
NOTE = sign_head(HEAD, "log", KEY)


def test_the_first_key_of_rfc_8032_signs_as_published() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey.from_seed(seed)

    assert key.public.hex == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e3970"
        "1cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_a_key_is_named_by_the_start_of_its_digest() -> None:
    assert KEY.key_id == hashlib.sha256(KEY.public.raw).hexdigest()[:16]
    assert PublicKey.from_hex(KEY.public.hex) == KEY.public
    assert SigningKey.from_seed(KEY.seed).public == KEY.public
    assert SigningKey.generate().key_id != SigningKey.generate().key_id


def test_a_key_does_not_show_its_seed() -> None:
    assert SEED.hex() not in repr(KEY)
    assert repr(KEY) == f"SigningKey({KEY.key_id})"


def test_the_bytes_of_a_statement_are_final() -> None:
    signed = KEY.sign_statement(PAYLOAD)

    assert signed.statement == (
        '{"origin":"log.example","policy":"' + "a" * 64 + '","project":"digits","type":"policy"}'
    )
    assert base64.b64decode(signed.signature) == KEY.sign(
        b"artifact-pipelines/statement/v1\n" + signed.statement.encode()
    )
    assert SignedStatement.from_body(signed.as_body()) == signed
    assert signed.payload == PAYLOAD
    signed.verify(KEY.public)


@given(st.integers(0, 10_000), st.sampled_from(["statement", "signature"]))
def test_a_statement_with_any_changed_character_is_refused(place: int, field: str) -> None:
    body = KEY.sign_statement(PAYLOAD).as_body()
    text = body[field]
    place %= len(text)
    body[field] = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]

    with pytest.raises(LedgerError):
        SignedStatement.from_body(body).verify(KEY.public)


def test_a_statement_of_another_key_is_refused() -> None:
    signed = KEY.sign_statement(PAYLOAD)

    with pytest.raises(LedgerError, match="cites key"):
        signed.verify(OTHER.public)
    with pytest.raises(LedgerError, match="not valid"):
        SignedStatement(signed.statement, OTHER.key_id, signed.signature).verify(OTHER.public)


def test_a_signature_over_a_statement_is_none_over_a_head() -> None:
    text = HEAD.text()
    forged = SignedStatement(text, KEY.key_id, base64.b64encode(KEY.sign(text.encode())).decode())

    with pytest.raises(LedgerError, match="not valid"):
        forged.verify(KEY.public)


@pytest.mark.parametrize(
    "before, cut, after", [("", 2, ""), ("", 0, "\n"), (" ", 0, ""), ("", 0, "=")]
)
def test_a_signature_has_one_spelling(before: str, cut: int, after: str) -> None:
    signed = KEY.sign_statement(PAYLOAD)
    text = before + signed.signature[: len(signed.signature) - cut] + after

    with pytest.raises(LedgerError):
        SignedStatement(signed.statement, signed.key, text).verify(KEY.public)


def test_base64_with_stray_bits_is_refused() -> None:
    signed = KEY.sign_statement(PAYLOAD)
    text = signed.signature
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = text[:-3] + alphabet[alphabet.index(text[-3]) | 1] + "=="

    assert base64.b64decode(stray) == base64.b64decode(text)
    with pytest.raises(LedgerError, match="canonical base64"):
        SignedStatement(signed.statement, signed.key, stray).verify(KEY.public)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"statement": "{}", "key": "x"},
        {"statement": "{}", "key": "x", "signature": None},
        {"statement": {}, "key": "x", "signature": "y"},
        {"statement": "{}", "key": 5, "signature": "y"},
    ],
)
def test_a_body_without_a_statement_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="needs the texts"):
        SignedStatement.from_body(body)


def test_a_statement_that_is_no_json_says_nothing() -> None:
    with pytest.raises(InvalidFormatError):
        _ = SignedStatement('{"a":1,"a":2}', "k", "s").payload


@pytest.mark.parametrize(
    "payload",
    [{}, {"type": "verdict"}, {"type": "poem", "origin": "log"}, {"type": "key", "origin": "a b"}],
)
def test_a_key_signs_no_payload_without_a_type_and_a_log(payload: dict[str, Any]) -> None:
    with pytest.raises(LedgerError):
        KEY.sign_statement(payload)


@pytest.mark.parametrize("text", ["", "a" * 63, "A" * 64, "g" * 64, "aa " * 32, None])
def test_what_spells_no_key_is_refused(text: str) -> None:
    with pytest.raises(LedgerError):
        PublicKey.from_hex(text)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(LedgerError, match="32 bytes"):
        PublicKey(bytes(31))


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def doubled(x: int, y: int) -> tuple[int, int]:
    """The sum of a point of the curve with itself (RFC 8032, 5.1)."""
    t = D * x * x * y * y % P
    return 2 * x * y * pow(1 + t, -1, P) % P, (y * y + x * x) * pow(1 - t, -1, P) % P


def test_a_point_of_small_order_is_no_key() -> None:
    points = set()
    for encoded in signing._SMALL_ORDER:
        y = int.from_bytes(encoded, "little") % P
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        root = pow(square, (P + 3) // 8, P)
        x = root if root * root % P == square else root * pow(2, (P - 1) // 4, P) % P

        assert x * x % P == square
        assert doubled(*doubled(*doubled(x, y))) == (0, 1)
        points |= {(x, y), (-x % P, y)}
        for sign in (0, 128):
            with pytest.raises(LedgerError, match="small order"):
                PublicKey(encoded[:-1] + bytes([encoded[-1] | sign]))
    # There are eight such points, and two of their coordinates have a second spelling.
    assert len(points) == 8
    assert len(signing._SMALL_ORDER) == len({y for _, y in points}) + 2


def test_the_text_of_a_tree_head_is_final() -> None:
    text, blank, signature = NOTE.partition("\n\n")

    assert text == (
        "log.example/1\n5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\npointers " + "a" * 64
    )
    assert blank
    mark, name, coded = signature.removesuffix("\n").split(" ")
    assert (mark, name) == ("—", "log")
    raw = base64.b64decode(coded)
    assert raw[:4] == hashlib.sha256(b"log\n\x01" + KEY.public.raw).digest()[:4]
    assert KEY.public.verify(raw[4:], (text + "\n").encode())


def test_a_signed_head_opens() -> None:
    assert open_head(NOTE, "log", KEY.public) == HEAD


def test_the_signature_of_a_witness_is_passed_over() -> None:
    witness = sign_head(HEAD, "witness", OTHER).partition("\n\n")[2]
    text, blank, own = NOTE.partition("\n\n")

    assert open_head(text + blank + witness + own, "log", KEY.public) == HEAD
    assert open_head(NOTE + witness, "log", KEY.public) == HEAD
    assert open_head(NOTE + witness, "witness", OTHER.public) == HEAD


def test_a_head_of_another_key_or_name_is_refused() -> None:
    with pytest.raises(LedgerError, match="no valid signature of log"):
        open_head(NOTE, "log", OTHER.public)
    with pytest.raises(LedgerError, match="no valid signature of other"):
        open_head(NOTE, "other", KEY.public)


@given(st.integers(0, 10_000), st.characters(exclude_categories=["Cs"]))
def test_a_note_with_any_changed_character_is_refused(place: int, character: str) -> None:
    place %= len(NOTE)
    changed = NOTE[:place] + character + NOTE[place + 1 :]
    if changed == NOTE:
        return

    with pytest.raises(LedgerError):
        open_head(changed, "log", KEY.public)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        NOTE.removesuffix("\n"),
        NOTE + "\n",
        NOTE + "junk\n",
        NOTE.replace("\n5\n", "\n05\n"),
        NOTE.replace("\n5\n", "\n+5\n"),
        NOTE.replace("\n5\n", "\n\u0665\n"),
        NOTE.replace("\n5\n", "\n-5\n"),
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("pointers ", ""),
        NOTE.replace("pointers ", "Pointers "),
        NOTE.replace("\n\n", "\nmore\n\n"),
        NOTE.partition("\n\n")[0] + "\n\n",
        NOTE.partition("\n\n")[0],
    ],
)
def test_a_note_of_another_form_is_refused(note: str) -> None:
    with pytest.raises(LedgerError):
        open_head(note, "log", KEY.public)


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": ""},
        {"origin": "a\nb"},
        {"origin": "a+b"},
        {"origin": "a b"},
        {"size": -1},
        {"size": 2**53},
        {"size": True},
        {"root": bytes(31)},
        {"pointers": "A" * 64},
        {"pointers": ""},
    ],
)
def test_a_head_that_cannot_be_written_down_is_refused(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"origin": "log", "size": 5, "root": bytes(32), "pointers": "a" * 64}

    with pytest.raises(LedgerError):
        TreeHead(**whole | fields)


@given(
    st.from_regex(r"[a-z][a-z0-9./-]{0,30}", fullmatch=True),
    st.integers(0, 2**53 - 1),
    st.binary(min_size=32, max_size=32),
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
def test_every_head_opens_as_it_was_signed(
    origin: str, size: int, root: bytes, pointers: str
) -> None:
    head = TreeHead(origin, size, root, pointers)

    assert open_head(sign_head(head, "log", KEY), "log", KEY.public) == head


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "ä", "x" * 201, None])
def test_a_name_that_a_note_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(LedgerError):
        check_origin(name)
    with pytest.raises(LedgerError):
        sign_head(HEAD, name, KEY)


def test_the_digest_of_a_payload_is_the_one_of_its_text() -> None:
    signed = KEY.sign_statement({"origin": "l", "type": "key", "b": 1, "a": [1.0, None]})

    assert signed.statement == '{"a":[1,null],"b":1,"origin":"l","type":"key"}'
    assert digest.canonical(signed.payload).decode() == signed.statement
