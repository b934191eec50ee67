"""Debian packages and Qt resource files, written by other code than reads them."""

import shutil
import subprocess

import pytest

from tests.support.debian_files import deb, rcc
from tvt_jax.data.open_photographs.debian import debian_package, read_debian_package, read_rcc
from tvt_jax.errors import UserError

FILES = {"usr/share/a.txt": b"one", "usr/share/deep/b.bin": bytes(range(256)) * 9, "c": b""}
TREE = {"src": {"zebra": {"a.webp": b"plain"}, "b.png": (b"zipped" * 50,)}, "ä": b"wide"}


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_files_of_a_package(tmp_path, compression):
    path = tmp_path / "small_1_all.deb"
    path.write_bytes(deb(FILES, compression))
    assert read_debian_package(path, FILES) == FILES
    assert read_debian_package(path, ["c", "usr/share/none"]) == {"c": b""}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_package_that_dpkg_builds(tmp_path):
    """Also: dpkg reads what the test's own writer writes."""
    for path, content in FILES.items():
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_bytes(content)
    (tmp_path / "tree" / "DEBIAN").mkdir()
    control = "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\n"
    (tmp_path / "tree" / "DEBIAN" / "control").write_text(control + "Description: small\n")
    built = tmp_path / "built_1_all.deb"
    command = ["dpkg-deb", "-Zxz", "--build", str(tmp_path / "tree"), str(built)]
    subprocess.run(command, check=True, capture_output=True)
    assert read_debian_package(built, FILES) == FILES

    (tmp_path / "own.deb").write_bytes(deb(FILES))
    done = subprocess.run(["dpkg-deb", "-c", str(tmp_path / "own.deb")], capture_output=True)
    assert b"usr/share/deep/b.bin" in done.stdout


@pytest.mark.parametrize("cut", [4, 40, 150, 330])
def test_a_damaged_package(tmp_path, cut):
    path = tmp_path / "small_1_all.deb"
    path.write_bytes(deb(FILES)[:cut])
    with pytest.raises(UserError, match=r"small_1_all.deb (is not|cannot be read)"):
        read_debian_package(path, FILES)


def test_finding_a_package(tmp_path, monkeypatch):
    (tmp_path / "small_1_all.deb").touch()
    (tmp_path / "small-data_1_all.deb").touch()
    assert debian_package("small", tmp_path).name == "small_1_all.deb"
    (tmp_path / "small_2_all.deb").touch()
    with pytest.raises(UserError, match="several versions of small"):
        debian_package("small", tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no apt-get here; get other from https://packages.debian"):
        debian_package("other", tmp_path)


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "apt-get"
    script.write_text("#!/bin/sh\necho 'W: hm' >&2\necho 'E: Unable to locate' >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    with pytest.raises(UserError, match=r"cannot download none \(E: Unable to locate\); get none"):
        debian_package("none", tmp_path / "packages")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_resources(version):
    found = read_rcc(rcc(TREE, version), "small.rcc")
    assert found == {"src_zebra_a.webp": b"plain", "src_b.png": b"zipped" * 50, "ä": b"wide"}


def test_damaged_resources():
    whole = rcc(TREE)
    with pytest.raises(UserError, match="small.rcc is not a Qt resource file"):
        read_rcc(b"PK" + whole, "small.rcc")
    for cut in range(5, len(whole) - 8, 7):  # the last 8 bytes are a time that nobody reads
        with pytest.raises(UserError, match="damaged"):
            read_rcc(whole[:cut], "small.rcc")
    endless = bytearray(whole)
    first_child = whole.index(b"\x00\x02\x00\x00\x00\x02\x00\x00\x00\x01") + 6
    endless[first_child : first_child + 4] = bytes(4)  # the root is its own child
    with pytest.raises(UserError, match="no end"):
        read_rcc(bytes(endless), "small.rcc")
