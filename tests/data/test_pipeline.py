"""The stream of batches: what is in it, entering it anywhere, and who gets which part."""

import itertools

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import marks, noise, write_images, write_marked_images
from tvt_jax.config import MILD, QUALITY_WORDS, STRONG, DataConfig, DegradationConfig
from tvt_jax.data.pipeline import batches, samples
from tvt_jax.data.preparation.prepare import Settings, prepare_shards
from tvt_jax.data.preparation.runners import run_in_processes, run_in_threads
from tvt_jax.data.preparation.shard_writer import Filters, write_shard
from tvt_jax.errors import UserError

SMALL = Filters(min_side=1)


def config(folder, **changes) -> DataConfig:
    values = dict(train=str(folder), crop=16, batch_size=4, threads=2, prefetch=1)
    return DataConfig(**{**values, **changes})


def take(count, settings, seed=0, start=0, process=(0, 1), report=lambda line: None, tokenizer=""):
    with batches(settings, seed, start, report, process, tokenizer) as stream:
        return list(itertools.islice(stream, count))


def assert_equal(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 10)


# --------------------------------------------------------------------------------------------------
# One batch
# --------------------------------------------------------------------------------------------------


def test_crops_are_parts_of_the_images_half_of_them_flipped(folder):
    sources = [noise(number) for number in range(10)]
    flipped = 0
    for batch in take(20, config(folder)):
        assert batch["hr"].shape == (4, 16, 16, 3) and batch["hr"].dtype == np.uint8
        assert set(batch) == {"hr"}
        for crop in batch["hr"]:
            plain = any(contains(source, crop) for source in sources)
            mirrored = any(contains(source, crop[:, ::-1]) for source in sources)
            assert plain != mirrored
            flipped += mirrored
    assert 25 <= flipped <= 55  # 80 fair coins: 40 +- 3.4 standard deviations


def contains(image, crop):
    views = np.lib.stride_tricks.sliding_window_view(image, crop.shape)[:, :, 0]
    corner = (views[:, :, 0, 0] == crop[0, 0]).all(axis=-1)
    return any((views[y, x] == crop).all() for y, x in zip(*np.nonzero(corner), strict=True))


def test_every_position_of_the_crop_occurs(tmp_path):
    Image.fromarray(noise(0, 17, 18)).save(tmp_path / "a.png")
    seen = {batch["hr"][i].tobytes() for batch in take(40, config(tmp_path)) for i in range(4)}
    assert len(seen) == 2 * 3 * 2  # rows, columns, flip


def test_an_image_of_the_crop_s_size_is_used_whole(tmp_path):
    Image.fromarray(noise(0, 16, 16)).save(tmp_path / "a.png")
    (batch,) = take(1, config(tmp_path))
    want = noise(0, 16, 16)
    for crop in batch["hr"]:
        assert (crop == want).all() or (crop == want[:, ::-1]).all()


# --------------------------------------------------------------------------------------------------
# The stream
# --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder):
    first = take(6, config(folder))
    assert_equal(take(6, config(folder)), first)
    other = take(6, config(folder), seed=1)
    assert not any((a["hr"] == b["hr"]).all() for a, b in zip(first, other, strict=True))


def test_threads_and_prefetch_do_not_matter(folder):
    want = take(12, config(folder, threads=1))
    assert_equal(take(12, config(folder, threads=7, prefetch=5)), want)


def test_entering_anywhere_continues_exactly(tmp_path):
    """The position is the whole state; 130 batches of 4 are more than six epochs."""
    folder = write_images(tmp_path, 80, 20, 20)
    want = take(130, config(folder))
    for start in (1, 17, 30):
        with batches(config(folder), 0, 0, process=(0, 1)) as stream:
            for _ in range(start):
                next(stream)
            assert stream.position == start
            position = stream.position
        assert_equal(take(100, config(folder), start=position), want[start : start + 100])


def test_other_images_have_another_fingerprint(tmp_path):
    def fingerprint(folder):
        with batches(config(folder), 0, 0, process=(0, 1)) as stream:
            return stream.fingerprint

    first = fingerprint(write_images(tmp_path / "a", 3))
    assert fingerprint(write_images(tmp_path / "moved", 3)) == first
    assert fingerprint(write_images(tmp_path / "a", 4)) != first


def test_entering_late_costs_nothing(folder):
    take(1, config(folder), start=10**9)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch(folder, count):
    """Position n of one process continues on any other number of them: the batch is the same."""
    whole = take(9, config(folder))
    parts = [take(9, config(folder), process=(index, count)) for index in range(count)]
    for number, batch in enumerate(whole):
        for index in range(count):
            block = np.split(batch["hr"], count)[index]
            np.testing.assert_array_equal(parts[index][number]["hr"], block)


def test_two_processes_see_each_image_once_an_epoch(tmp_path):
    settings = config(write_marked_images(tmp_path, 24))
    parts = [take(12, settings, process=(index, 2)) for index in range(2)]
    for epoch in range(2):
        seen = [
            [mark for batch in part[6 * epoch : 6 * epoch + 6] for mark in marks(batch)]
            for part in parts
        ]
        assert not set(seen[0]) & set(seen[1])
        assert sorted(seen[0] + seen[1]) == list(range(24))


def test_epochs_have_orders_of_their_own(tmp_path):
    settings = config(write_marked_images(tmp_path, 24))
    orders = [
        tuple(mark for batch in take(6, settings, start=6 * epoch) for mark in marks(batch))
        for epoch in range(4)
    ]
    orders.append(tuple(mark for batch in take(6, settings, seed=1) for mark in marks(batch)))
    assert len(set(orders)) == 5 and all(sorted(o) == list(range(24)) for o in orders)


def test_a_sample_can_be_replayed_by_its_number(folder):
    stream = samples(config(folder), 0)
    third = take(3, config(folder))[2]
    replayed = np.stack([stream[8 + i]["hr"] for i in range(4)])
    np.testing.assert_array_equal(replayed, third["hr"])


# --------------------------------------------------------------------------------------------------
# Mixtures
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """Images 0 to 9, and 100 to 139."""
    root = tmp_path_factory.mktemp("two")
    write_marked_images(root / "a", 10)
    write_marked_images(root / "b", 40, first=100)
    return f"{root}/a, {root}/b"


def test_without_weights_each_image_counts_alike(two_folders):
    settings = config(two_folders, batch_size=10)
    seen = [mark for batch in take(5, settings) for mark in marks(batch)]
    assert sorted(seen) == [*range(10), *range(100, 140)]


def test_weights_are_shares_of_the_samples(two_folders):
    settings = config(two_folders, batch_size=10, weights=(0.9, 0.1))
    seen = [mark for batch in take(20, settings) for mark in marks(batch)]
    small = [mark for mark in seen if mark < 100]
    assert len(small) == 180
    for epoch in range(18):  # each source goes through its own epochs
        assert sorted(small[10 * epoch : 10 * epoch + 10]) == list(range(10))
    large = [mark for mark in seen if mark >= 100]
    assert len(large) == len(set(large)) == 20


def test_a_mixture_can_be_entered_anywhere(two_folders):
    settings = config(two_folders, weights=(0.7, 0.3))
    assert_equal(take(10, settings, start=31), take(41, settings)[31:])


# --------------------------------------------------------------------------------------------------
# Pairs, tokens
# --------------------------------------------------------------------------------------------------


def write_pair(hr_folder, lr_folder, name, factor, height=40, width=48):
    """LR pixels say their row and column, HR pixels those of the LR pixel that they lie in.

    The third channel is noise, so that enlarged pixels depend on their neighbours.
    """
    hr_folder.mkdir(parents=True, exist_ok=True)
    lr_folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: height // factor, : width // factor]
    lr = np.stack(
        [rows, columns, noise(0, 90, 90)[: height // factor, : width // factor, 2]], axis=2
    )
    lr = lr.astype(np.uint8)
    hr = lr.repeat(factor, axis=0).repeat(factor, axis=1)
    Image.fromarray(hr).save(hr_folder / f"{name}.png")
    Image.fromarray(lr).save(lr_folder / f"{name}.png")
    return lr


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pairs_are_cut_alike_and_enlarged_as_at_inference(tmp_path, factor):
    lr = write_pair(tmp_path / "hr", tmp_path / "lr", "a", factor)
    enlarged = Image.fromarray(lr).resize((48, 40), Image.Resampling.BICUBIC)
    enlarged = np.asarray(enlarged)
    settings = config(tmp_path / "hr", train_lr=str(tmp_path / "lr"))
    places, flips = set(), 0
    for batch in take(30, settings):
        for hr, low in zip(batch["hr"], batch["lr"], strict=True):
            flip = hr[0, 0, 1] > hr[0, -1, 1]
            levels = hr[:, ::-1] if flip else hr
            top, left = (factor * int(v) for v in levels[0, 0, :2])
            want = enlarged[top : top + 16, left : left + 16]
            np.testing.assert_array_equal(low, want[:, ::-1] if flip else want)
            places.add((top, left))
            flips += flip
    assert 10 < flips < 110
    assert len(places) > 20 and max(places)[0] == 24 and max(p[1] for p in places) == 32


def test_layouts_of_public_pairs(tmp_path):
    write_pair(tmp_path / "Canon/Train/4", tmp_path / "lr", "Canon_001_HR", 4)
    (tmp_path / "lr/Canon_001_HR.png").rename(tmp_path / "Canon/Train/4/Canon_001_LR4.png")
    (batch,) = take(1, config(tmp_path, pairs="realsr"))
    assert batch["lr"].shape == batch["hr"].shape == (4, 16, 16, 3)


def test_pairs_that_do_not_fit_are_skipped(tmp_path):
    write_pair(tmp_path / "hr", tmp_path / "lr", "good", 4)
    write_pair(tmp_path / "hr", tmp_path / "lr", "bad", 4)
    Image.fromarray(noise(0, 10, 11)).save(tmp_path / "lr" / "bad.png")
    write_pair(tmp_path / "hr", tmp_path / "lr", "alone", 4)
    (tmp_path / "lr" / "alone.png").unlink()
    lines = []
    settings = config(tmp_path / "hr", train_lr=str(tmp_path / "lr"))
    take(3, settings, report=lines.append)
    assert any("bad.png: HR 48x40 and LR 11x10 px" in line for line in lines)
    assert any("alone.png cannot be read: No such file" in line for line in lines)
    assert len(lines) == 2


def test_pairs_and_other_images_do_not_mix_without_degradation(tmp_path, folder):
    write_pair(tmp_path / "Canon/Train/4", tmp_path / "Canon/Train/4", "Canon_001_HR", 1)

    settings = Settings((str(folder),), (str(folder),), filters=SMALL)
    prepare_shards(str(tmp_path / "shards"), settings, run_in_processes(1, True))
    with pytest.raises(UserError, match="mixes real pairs"):
        take(1, config(f"{tmp_path}/shards,{folder}"))
    (batch,) = take(1, config(f"{tmp_path}/shards"))
    np.testing.assert_array_equal(batch["lr"], batch["hr"])


def test_tags_become_tokens(tmp_path, folder):
    from transformers import CLIPTokenizer

    from tests.support.small_tokenizer import write_tokenizer

    def tag_images(images):
        return [["a cat", f"mark {image[0, 0, 0]}"] for image in images]

    def write(task):
        write_shard(task, tag_images)

    shards = tmp_path / "shards"
    prepare_shards(
        str(shards), Settings((str(folder),), filters=SMALL), run_in_threads(1, True), write
    )
    write_tokenizer(tmp_path / "tokenizer")
    tokenized = {"tokenizer": str(tmp_path / "tokenizer")}
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")

    def tokens(prompts):
        many = tokenizer(prompts, padding="max_length", max_length=77)["input_ids"]
        return {tuple(row) for row in many}

    def seen(settings, batches=10):
        found = [batch["tokens"] for batch in take(batches, settings, **tokenized)]
        assert all(t.shape == (4, 77) and t.dtype == np.int32 for t in found)
        return {tuple(row) for row in np.concatenate(found).tolist()}

    marks = [noise(number)[0, 0, 0] for number in range(10)]
    # The release trains with the tags, a comma and a space.
    assert seen(config(shards)) == tokens([f"a cat, mark {mark}, " for mark in marks])
    words = config(shards, prompt=QUALITY_WORDS)
    assert seen(words) == tokens([f"a cat, mark {mark}, {QUALITY_WORDS}" for mark in marks])
    assert seen(config(folder), 1) == tokens([""])


# --------------------------------------------------------------------------------------------------
# Degradation
# --------------------------------------------------------------------------------------------------


def degraded(folder, **changes):
    return config(folder, crop=80, **{"degradation": STRONG, **changes})


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("large"), 30, 90, 100)


def test_lr_is_the_degraded_crop(large):
    """The draws follow the crop's and the flip's in the sample's own random stream."""
    from tvt_jax.data.degradation import degrade, draw_recipe

    for number, batch in enumerate(take(3, degraded(large))):
        assert batch["lr"].dtype == np.uint8 and batch["lr"].shape == batch["hr"].shape
        for place in range(4):
            sample = samples(degraded(large), 0)[4 * number + place]
            np.testing.assert_array_equal(batch["hr"][place], sample["hr"])
            np.testing.assert_array_equal(batch["lr"][place], sample["lr"])
            rng = np.random.Generator(np.random.Philox(reader_seed(0)))
            state = rng.bit_generator.state
            state["state"]["counter"][:] = [0, 0, 0, 4 * number + place]
            rng.bit_generator.state = state
            top, left = rng.integers(90 - 80 + 1), rng.integers(100 - 80 + 1)
            flip = slice(None, None, -1) if rng.random() < 0.5 else slice(None)
            recipe = draw_recipe(STRONG, rng, 80, 80)
            crops = [
                noise(n, 90, 100)[top : top + 80, left : left + 80][:, flip] for n in range(30)
            ]
            (crop,) = [crop for crop in crops if (crop == sample["hr"]).all()]
            _, conditioning = degrade(crop.astype(np.float32) / 255, recipe)
            np.testing.assert_array_equal(sample["lr"], np.rint(conditioning * 255))


def reader_seed(seed):
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def test_degraded_batches_are_the_same_however_they_are_made(large):
    want = take(12, degraded(large, degradation=MILD))
    assert_equal(take(6, degraded(large, degradation=MILD, threads=5), start=6), want[6:])
    halves = [take(12, degraded(large, degradation=MILD), process=(i, 2)) for i in range(2)]
    np.testing.assert_array_equal(halves[1][9]["lr"], np.split(want[9]["lr"], 2)[1])
    in_workers = take(8, degraded(large, degradation=MILD, workers=2, threads=4), start=4)
    assert_equal(in_workers, want[4:])
    assert (take(1, degraded(large))[0]["lr"] != want[0]["lr"]).any()


def test_real_pairs_are_not_degraded(large, tmp_path):
    """In a mixture, images with LR keep it and the others get one."""
    write_pair(tmp_path / "hr", tmp_path / "lr", "a", 4, 80, 80)

    settings = Settings((str(tmp_path / "hr"),), (str(tmp_path / "lr"),), filters=SMALL)
    prepare_shards(str(tmp_path / "shards"), settings, run_in_processes(1, True))
    (real,) = take(1, config(tmp_path / "shards", crop=80))
    mixed = degraded(f"{large},{tmp_path}/shards", weights=(0.5, 0.5))
    known = {image.tobytes() for image in (real["lr"][0], real["lr"][0][:, ::-1])}
    (batch,) = take(1, mixed)
    assert [image.tobytes() in known for image in batch["lr"]] in (
        [False, True, False, True],
        [True, False, True, False],
    )


# --------------------------------------------------------------------------------------------------
# Images that cannot be used
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(tmp_path):
    """Twenty images of which two cannot be used, and two are converted."""
    write_images(tmp_path, 16)
    Image.fromarray(noise(90)).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(noise(91)).convert("RGBA").save(tmp_path / "alpha.png")
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8 no")
    Image.fromarray(noise(92, 15, 40)).save(tmp_path / "small.png")
    return tmp_path


def test_each_is_counted_and_named_once(spoilt):
    lines = []
    with batches(config(spoilt, max_failed=0.5), 0, 0, lines.append, (0, 1)) as stream:
        for _ in range(20):  # four epochs
            assert next(stream)["hr"].shape == (4, 16, 16, 3)
        counts = stream.counts
    assert counts["samples"] == 80 and counts["skipped"] >= 8
    assert counts["greyscale to RGB"] >= 4 and counts["transparency dropped"] >= 4
    assert sorted(line.split("/")[-1] for line in lines) == [
        "alpha.png: transparency dropped",
        "damaged.jpg: unknown format or damaged",
        "grey.png: greyscale to RGB",
        "small.png: 40x15 px, smaller than 16",
    ]


def test_the_same_image_replaces_an_unusable_one_every_time(spoilt):
    settings = config(spoilt, max_failed=0.5)
    want = take(20, settings)
    assert_equal(take(20, settings), want)
    assert_equal(take(5, settings, start=15), want[15:])
    halves = [take(20, settings, process=(index, 2)) for index in range(2)]
    np.testing.assert_array_equal(halves[1][7]["hr"], np.split(want[7]["hr"], 2)[1])


def test_conversions_are_not_all_named(tmp_path):
    for number in range(30):
        Image.fromarray(noise(number)).convert("L").save(tmp_path / f"{number}.png")
    lines = []
    take(20, config(tmp_path), report=lines.append)
    assert len(lines) == 11 and "without being named" in lines[-1]


def test_too_many_failures_stop_the_run(spoilt):
    with pytest.raises(UserError, match=r"\d+ of 2\d\d images cannot be used, more than .*=0.08"):
        take(80, config(spoilt, max_failed=0.08))
    take(80, config(spoilt, max_failed=0.12))  # a tenth cannot be used


def test_only_unusable_images_stop_the_run_at_once(folder):
    with pytest.raises(UserError, match="50 images in a row .*smaller than 41.*data.crop"):
        take(1, config(folder, crop=41))


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(train=""), "train` is empty"),
        (dict(train="/no/such"), "/no/such is not a folder"),
        (dict(train="tests/golden"), "tests/golden has no images"),
        (dict(train="gs://bucket/folder"), "pip install gcsfs"),
        (dict(train_lr="/no/such"), "/no/such is not a folder"),
        (dict(train_lr="a,b"), "train_lr` has 2 folders for 1"),
        (dict(pairs="realsr"), "no images in the layout of realsr"),
        (dict(batch_size=3), "batch_size=3` is not a multiple of the 2 processes"),
        (dict(degradation=MILD), "16x16 px cannot be degraded"),
    ],
)
def test_mistakes_are_named(folder, changes, match):
    with pytest.raises(UserError, match=match):
        take(1, config(**{"folder": folder, **changes}), process=(0, 2))


def test_a_missing_tokenizer_is_named(folder):
    with pytest.raises(UserError, match="is not a tokenizer folder"):
        take(1, config(folder), tokenizer="/no/such")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(crop=0, threads=-1), "data.crop`, `config.data.threads` must be positive"),
        (dict(workers=-1), "workers=-1"),
        (dict(max_failed=2.0), "not between 0 and 1"),
        (dict(weights=(0.5, 0.5)), "must be 1 positive numbers"),
        (dict(train="a,b", weights=(1.0, 0.0)), "must be 2 positive numbers"),
        (dict(pairs="realsr", train_lr="x"), "not both"),
        (dict(pairs="sidd"), "not one of realsr, drealsr, realce"),
        (dict(degradation=DegradationConfig(scale=0)), "scale = 0 must be at least 1"),
    ],
)
def test_settings_are_checked(changes, match):
    with pytest.raises(UserError, match=match):
        config(**{"folder": "x", **changes}).validate()
    config("a, b", weights=(0.9, 0.1)).validate()
