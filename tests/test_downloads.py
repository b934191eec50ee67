"""Files of wheels: from an installed package, from the cache, or downloaded once."""

import hashlib
import zipfile

import pytest

from tvt_jax import downloads
from tvt_jax.downloads import Wheel, wheel_files
from tvt_jax.errors import UserError

DATA = {"some_package_x/data/a.png": b"image", "some_package_x/b.txt": b"text"}
WHEEL = Wheel(
    "some-package-x==1.0", "0" * 64, {k: hashlib.sha256(v).hexdigest() for k, v in DATA.items()}
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tvt_jax" / "pypi" / "some-package-x==1.0"


def no_download(wheel, folder):
    raise AssertionError("nothing to download")


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_a_wheel_is_fetched_once(cache, monkeypatch):
    calls = []

    def download(wheel, folder):
        calls.append(wheel)
        with zipfile.ZipFile(folder / "x.whl", "w") as archive:
            for path, content in {**DATA, "some_package_x/large.so": b"not wanted"}.items():
                archive.writestr(path, content)
        return folder / "x.whl"

    monkeypatch.setattr(downloads, "_download", download)
    first, second = wheel_files(WHEEL), wheel_files(WHEEL)
    assert first == second == {path: cache / path for path in DATA} and len(calls) == 1
    assert {path: file.read_bytes() for path, file in first.items()} == DATA
    assert not list(cache.rglob("*.so"))
    # A damaged copy is replaced.
    first["some_package_x/b.txt"].write_bytes(b"else")
    assert wheel_files(WHEEL)["some_package_x/b.txt"].read_bytes() == b"text" and len(calls) == 2


def test_an_installed_package_is_used_if_it_has_the_same_files(cache, tmp_path, monkeypatch):
    site = tmp_path / "site"
    write(site, {**DATA, "some_package_x/__init__.py": b"raise ImportError('imported')"})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(downloads, "_download", no_download)
    assert wheel_files(WHEEL) == {path: site / path for path in DATA}
    write(site, {"some_package_x/b.txt": b"another version"})
    write(cache, DATA)
    assert wheel_files(WHEEL)["some_package_x/b.txt"] == cache / "some_package_x/b.txt"


def test_without_pypi(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(
        UserError, match=r"some-package-x==1.0 could not be downloaded \(pip: "
    ) as e:
        wheel_files(WHEEL)
    assert "\n" not in str(e.value) and str(cache) in str(e.value)
