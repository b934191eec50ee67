"""Records keep everything, and half a record is noticed."""

import dataclasses

import pytest

from tvt_jax.data.records import BadRecord, Record, decode_record, encode_record

FULL = Record(
    "ordner/Bild ä.jpg", b"\x89PNG...", "ab" * 32, 640, 480, (0, 512), ("a tree", "sky"), b"LR"
)
PLAIN = Record("a.png", b"", "00", 1, 1)


@pytest.mark.parametrize("record", [FULL, PLAIN, dataclasses.replace(FULL, tags=(), lr=b"")])
def test_records_come_back(record):
    assert decode_record(encode_record(record)) == record


def test_equal_records_are_equal_bytes():
    assert encode_record(FULL) == encode_record(dataclasses.replace(FULL))


def test_every_cut_is_noticed():
    data = encode_record(FULL)
    for length in range(len(data)):
        with pytest.raises(BadRecord):
            decode_record(data[:length])
    with pytest.raises(BadRecord):
        decode_record(data + b"x")


def test_other_versions_are_refused():
    with pytest.raises(BadRecord, match="TVT9"):
        decode_record(b"TVT9" + encode_record(FULL)[4:])
