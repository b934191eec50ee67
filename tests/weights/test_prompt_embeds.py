"""Stored embeddings: written and read again, by PyTorch too, and every mistake named."""

import stat

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from tests.support.parity import noise
from tvt_jax.errors import UserError
from tvt_jax.weights.prompt_embeds import (
    FILE,
    PromptEmbeds,
    has_prompt_embeds,
    load_prompt_embeds,
    save_prompt_embeds,
)

POSITIVE, NEGATIVE = noise(1, 4, 6, seed=0), noise(1, 4, 6, seed=1)


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "new" / "model"
    assert not has_prompt_embeds(folder)
    save_prompt_embeds(folder, PromptEmbeds(POSITIVE, NEGATIVE))
    assert has_prompt_embeds(folder)
    got = load_prompt_embeds(folder)
    np.testing.assert_array_equal(got.prompt_embeds, POSITIVE)
    np.testing.assert_array_equal(got.negative_prompt_embeds, NEGATIVE)
    # The names of diffusers' arguments.
    theirs = safetensors.torch.load_file(folder / FILE)
    np.testing.assert_array_equal(theirs["prompt_embeds"].numpy(), POSITIVE)
    np.testing.assert_array_equal(theirs["negative_prompt_embeds"].numpy(), NEGATIVE)


def test_others_can_read_the_file(tmp_path):
    (tmp_path / "plain").write_text("")
    save_prompt_embeds(tmp_path, PromptEmbeds(POSITIVE, NEGATIVE))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", FILE)}
    assert len(modes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", FILE]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_float_dtype_is_read_as_float32(tmp_path, dtype):
    arrays = {"prompt_embeds": POSITIVE, "negative_prompt_embeds": NEGATIVE}
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, tmp_path / FILE)
    got = load_prompt_embeds(tmp_path).prompt_embeds
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, POSITIVE.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"prompt_embeds": POSITIVE, "other": NEGATIVE},
         "negative_prompt_embeds is missing; other is unknown"),
        ({"prompt_embeds": POSITIVE[0], "negative_prompt_embeds": np.zeros((2, 4, 6), "f4")},
         r"prompt_embeds is \[4, 6\] and not \[1, tokens, width\]; "
         r"negative_prompt_embeds is \[2, 4, 6\] and not"),
        ({"prompt_embeds": POSITIVE, "negative_prompt_embeds": NEGATIVE[:, :3]},
         r"prompt_embeds is \[1, 4, 6\] and negative_prompt_embeds is \[1, 3, 6\]"),
        ({"prompt_embeds": POSITIVE[:, :0], "negative_prompt_embeds": NEGATIVE[:, :0]},
         r"prompt_embeds is \[1, 0, 6\] and not"),
        ({"prompt_embeds": POSITIVE.astype(np.int32), "negative_prompt_embeds": NEGATIVE},
         "prompt_embeds is int32 and not floating-point"),
        ({"prompt_embeds": POSITIVE, "negative_prompt_embeds": NEGATIVE * np.nan},
         "negative_prompt_embeds is not finite"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_full(tmp_path, arrays, match):
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, tmp_path / FILE)
    with pytest.raises(UserError, match=match):
        load_prompt_embeds(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match="prompt_embeds.safetensors does not exist"):
        load_prompt_embeds(tmp_path)
    (tmp_path / FILE).write_bytes(b"\x10\0\0\0\0\0\0\0nothing")
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_prompt_embeds(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        save_prompt_embeds(tmp_path / "model", PromptEmbeds(POSITIVE, NEGATIVE))
