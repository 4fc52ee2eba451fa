"""Folders of kernels: held while their process lives, swept when it does not, and nobody else's touched."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foveate.tools.run_folder import PREFIX, RunFolder, held, remove_tree, sweep

NOBODY = 12345


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Without root's rights over files."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(before)


def left_behind(root: Path) -> Path:
    """A folder with a picture in it whose process was killed."""
    folder = RunFolder(root)
    (folder.path / "image_0.png").write_bytes(b"a picture")
    os.close(folder._lock_fd)
    return folder.path


def test_a_folder_is_private_and_goes_with_what_is_in_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "image_0.png").write_bytes(b"a picture")
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_only_what_nobody_holds_is_swept(tmp_path: Path) -> None:
    kept, left = RunFolder(tmp_path), left_behind(tmp_path)
    (tmp_path / "another").mkdir()
    sweep(tmp_path)
    assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([kept.path, tmp_path / "another"])
    kept.remove()


@pytest.mark.parametrize("name", ["foveate-results", f"{PREFIX}results", f"{PREFIX}0123456789", f"{PREFIX}01234567"])
def test_a_folder_that_only_looks_like_one_of_a_kernel_stays(name: str, tmp_path: Path) -> None:
    theirs = tmp_path / name
    theirs.mkdir(0o755)
    if name != f"{PREFIX}01234567":  # which mkdtemp could have made, but for its mode
        theirs.chmod(0o700)
    (theirs / "report.json").touch()
    sweep(tmp_path)
    assert (theirs / "report.json").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    theirs, root = tmp_path / "theirs", tmp_path / "root"
    theirs.mkdir(0o700)
    root.mkdir()
    (root / f"{PREFIX}the_link").symlink_to(theirs)
    (root / f"{PREFIX}the_file").touch()
    sweep(root)
    assert theirs.is_dir()
    assert len(list(root.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_the_folder_of_another_user_stays(request: pytest.FixtureRequest) -> None:
    root = RunFolder()
    theirs = left_behind(root.path)
    root.path.chmod(0o755)
    request.getfixturevalue("ordinary_user")
    assert held(theirs) is None
    with pytest.warns(RuntimeWarning, match=f"{theirs} could not be removed .*; remove it by hand"):
        remove_tree(theirs)
    os.seteuid(0)
    sweep(root.path)
    assert not theirs.exists()
    root.remove()


@pytest.mark.usefixtures("ordinary_user")
def test_a_folder_that_was_closed_goes_too() -> None:
    folder = RunFolder()
    (folder.path / "d" / "e" / "f").mkdir(parents=True)
    (folder.path / "d" / "link").symlink_to("/")
    (folder.path / "d" / "e").chmod(0)
    (folder.path / "d").chmod(0)
    folder.remove()
    assert not folder.path.exists()


@pytest.mark.usefixtures("ordinary_user")
def test_where_no_folder_can_be_locked_it_is_told() -> None:
    root = RunFolder()
    before = os.umask(0o777)  # a new folder cannot even be opened
    try:
        with pytest.raises(OSError, match=f"no new folder in {root.path} could be locked"):
            RunFolder(root.path)
    finally:
        os.umask(before)
    assert list(root.path.iterdir()) == []
    root.remove()


def test_whoever_makes_a_folder_has_it_whatever_is_swept(tmp_path: Path) -> None:
    def made(_: int) -> bool:
        folder = RunFolder(tmp_path)
        sweep(tmp_path)
        is_there = folder.path.is_dir()
        folder.remove()
        return is_there

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(made, range(200)))
    assert list(tmp_path.iterdir()) == []
