"""Files and folders appear under their name when they are complete."""

import pytest

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file, atomic_folder


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_appears_when_it_is_complete(tmp_path, replace):
    with atomic_folder(tmp_path / "model", replace) as folder:
        (folder / "weights").write_text("new")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model", "weights"]


def test_a_new_folder_takes_the_place_of_an_old_one_as_a_whole(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapters").write_text("of the old one")
    with pytest.raises(UserError, match="exists already"), atomic_folder(tmp_path / "model"):
        pass
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model", replace=True) as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["adapters", "model"]
    with atomic_folder(tmp_path / "model", replace=True) as folder:
        (folder / "weights").write_text("new")
        assert names(tmp_path / "model") == ["adapters"]
    assert names(tmp_path) == ["model", "weights"]


def test_a_file_keeps_its_old_content_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UserError, match="cannot write .*: full"), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise OSError("full")
    assert (names(tmp_path), path.read_text()) == (["file"], "old")
