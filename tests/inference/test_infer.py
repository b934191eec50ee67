"""A folder through the command, whatever happens to one of its images."""

import numpy as np
import pytest

from tvt_jax.errors import UserError
from tvt_jax.images import read_image, write_image
from tvt_jax.infer import infer
from tvt_jax.inference.upscaler import Upscaled, Upscaler


class Enlarger:
    """Stands for the networks, and fails as machines do."""

    takes_prompts, has_tagger = True, False

    def upscale(self, image, options, tags):
        """Repeats pixels; the first one's red says which error is raised."""
        errors = {1: MemoryError(), 2: OSError(28, "No space left on device"), 3: UserError("no")}
        if image[0, 0, 0] in errors:
            raise errors[image[0, 0, 0]]
        return Upscaled(image.repeat(4, 0).repeat(4, 1), ())


@pytest.fixture
def enlarger(monkeypatch):
    monkeypatch.setattr(Upscaler, "from_folder", lambda model, dtype: Enlarger())


def test_one_bad_file_of_any_kind_never_ends_a_batch(enlarger, tmp_path, capsys):
    for red in range(5):
        image = np.full((4, 4, 3), red, np.uint8)
        write_image(tmp_path / "in" / f"{red}.png", image)
    (tmp_path / "in" / "5.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="4 of 6 images failed, the others are done"):
        infer([tmp_path / "in"], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "4.png"]
    assert (read_image(tmp_path / "out" / "4.png") == 4).all()
    errors = capsys.readouterr().err
    for text in ("1.png failed: MemoryError", "2.png failed: OSError", "error: no", "5.jpg is not"):
        assert text in errors
    (tmp_path / "out" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match="4 of 5 images failed"):
        infer([tmp_path / "in"], tmp_path / "out", skip_existing=True)
    assert "skipped 1 that exist already" in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "0.png").shape == (16, 16, 3)


def test_what_a_format_cannot_hold_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write .*a.webp as WEBP"):
        write_image(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    assert not list(tmp_path.iterdir())
