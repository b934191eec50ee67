"""Records keep everything, and half a record is noticed."""

import dataclasses

import msgpack
import pytest

from tvt_jax.data.records import Record, decode_record, encode_record
from tvt_jax.images import BadImage

FULL = Record(
    "ordner/Bild ä.jpg", b"\x89PNG...", "ab" * 32, 640, 480, (0, 512), ("a tree", "sky"), b"LR"
)
PLAIN = Record("a.png", b"", "00", 1, 1)


@pytest.mark.parametrize("record", [FULL, PLAIN, dataclasses.replace(FULL, tags=(), lr=b"")])
def test_records_come_back(record):
    assert decode_record(encode_record(record)) == record


def test_equal_records_are_equal_bytes():
    assert encode_record(FULL) == encode_record(dataclasses.replace(FULL))


def test_what_is_no_whole_record_is_refused():
    data = encode_record(FULL)
    for length in range(len(data)):
        with pytest.raises(BadImage, match="damaged"):
            decode_record(data[:length])
    other = msgpack.packb({"name": "a", "colour": 1})
    for wrong in (data + b"x", b"TVT1" + data, other, msgpack.packb([1, 2]), b"\xc1"):
        with pytest.raises(BadImage, match="damaged"):
            decode_record(wrong)
