import pytest

from audiotok import Spec
from audiotok.errors import InputError

SPEC = Spec("demo", sample_rate=24000, hop_length=320, codebook_sizes=(1024, 512), nested=True)


def test_rates_follow_from_the_numbers():
    assert (SPEC.frame_rate, SPEC.num_codebooks, SPEC.bitrate_bps, SPEC.vocab_size) == (75.0, 2, 1425.0, 1536)


def test_a_dict_and_back_is_the_same_spec():
    assert Spec.from_dict(SPEC.to_dict()) == SPEC


def test_truncate_keeps_the_first_codebooks():
    assert SPEC.truncate(1).codebook_sizes == (1024,)
    for count in (0, 3):
        with pytest.raises(InputError, match="has 1 to 2 codebooks"):
            SPEC.truncate(count)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0),
        ("sample_rate", "16000"),
        ("hop_length", True),
        ("codebook_sizes", []),
        ("codebook_sizes", [0]),
        ("codebook_sizes", 5),
        ("batching", "pad"),
        ("decodable", 1),
        ("colour", "red"),
    ],
)
def test_a_dict_with_a_wrong_value_is_refused(field, value):
    with pytest.raises(InputError):
        Spec.from_dict({**SPEC.to_dict(), field: value})


def test_a_dict_that_lacks_a_field_is_refused():
    values = SPEC.to_dict()
    del values["hop_length"]
    with pytest.raises(InputError, match="incomplete"):
        Spec.from_dict(values)
