"""The Python interface: what goes in comes out as the same kind. Networks are stood in for."""

import jax
import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encode, noise
from tests.support.image_kinds import deep_png, profile, values
from tvt_jax import Upscaler, UserError
from tvt_jax.images.formats import Encoding
from tvt_jax.inference import sizing
from tvt_jax.inference.upscaler import Upscaled


class Repeater(Upscaler):
    """Repeats pixels in the place of restoring them."""

    def __init__(self, name="first"):
        self.name, self._copies, self.seen = name, [], []

    def upscale(self, image, options, tags=None, **_):
        sizing.check_image(image)
        self.seen.append(self.name)
        times = round(options.scale)
        return Upscaled(image.repeat(times, 0).repeat(times, 1), tuple(tags or ()))


IMAGE = noise(0, 6, 5)


def test_arrays_give_arrays_of_their_dtype():
    for image in (IMAGE, IMAGE.astype(np.uint16) * 257, jax.numpy.asarray(IMAGE)):
        large = Repeater()(image, scale=2)
        np.testing.assert_array_equal(large[::2, ::2], image)
        assert large.dtype == image.dtype


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F"])
def test_images_of_pillow_give_such_images(mode):
    grey = IMAGE[..., 0]
    special = {"I;16": np.uint16(257) * grey, "I": grey.astype(np.int32), "F": grey / 255}
    if mode in special:
        image = Image.fromarray(special[mode].astype(np.float32) if mode == "F" else special[mode])
    else:
        image = Image.fromarray(IMAGE).convert(mode)
    image.info["icc_profile"] = profile("sRGB")
    image.info["dpi"] = (300, 300)
    large = Repeater()(image, scale=2)
    assert (large.mode, large.size) == (mode, (10, 12))
    assert large.info["icc_profile"] == profile("sRGB") and large.info["dpi"] == (300, 300)
    plain = [x.convert("RGB") if mode == "P" else x for x in (image, large)]
    np.testing.assert_allclose(
        np.asarray(plain[1])[::2, ::2].astype(float), np.asarray(plain[0]), atol=1e-4
    )


def test_paths_give_images_of_pillow(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(IMAGE), "PNG"))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(np.asarray(Repeater()(path, scale=1)), IMAGE)
    # Pillow has no colours of 16 bits; `upscale_file` keeps them.
    deep = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(deep_png(deep))
    shallow = np.asarray(Repeater()(tmp_path / "deep.png", scale=1))
    assert shallow.dtype == np.uint8 and np.abs(shallow * 257.0 - deep).max() <= 129
    written = Repeater().upscale_file(tmp_path / "deep.png", tmp_path / "large.png", scale=2)
    assert written.size == (10, 12) and not written.notes
    np.testing.assert_array_equal(values((tmp_path / "large.png").read_bytes())[::2, ::2], deep)


def test_several_images_are_shared_among_devices_and_stay_in_order():
    first = Repeater()
    first._copies = [Repeater("second"), Repeater("third")]
    images = [np.full((4, 4, 3), n, np.uint8) for n in range(12)]
    counts = []
    results = first(images, scale=1, progress=lambda done, total: counts.append((done, total)))
    assert [result[0, 0, 0] for result in results] == list(range(12))
    assert counts == [(n + 1, 12) for n in range(12)]
    assert len(first.seen) + sum(len(copy.seen) for copy in first._copies) == 12
    assert Repeater()([]) == []


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(image=None), TypeError, "`image` must be an array, an image of Pillow, a path"),
        (dict(image=IMAGE / 255), UserError, "`image` must be .* uint8 or uint16"),
        (dict(image=IMAGE[None]), UserError, "`image` must be .* not .1, 6, 5, 3. uint8"),
        (dict(image="nowhere.png"), UserError, "nowhere.png"),
        (dict(image=[IMAGE, 3]), TypeError, "`image` must be"),
        (dict(options={"scale": 2}), TypeError, "`options` must be RestorationOptions, not dict"),
        (dict(scale="4"), TypeError, "`scale` must be a number, not str"),
        (dict(scale=True), TypeError, "`scale` must be a number, not bool"),
        (dict(prompt=5), TypeError, "`prompt` must be str or None, not int"),
        (dict(seed=0.5, posterior="sample"), TypeError, "`seed` must be an integer or None"),
        (dict(sharpness=1), TypeError, "sharpness"),
    ],
)
def test_wrong_arguments_name_the_parameter(arguments, error, match):
    with pytest.raises(error, match=match):
        Repeater()(**{"image": IMAGE, **arguments})


def test_wrong_files_and_folders_name_the_parameter(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(IMAGE), "PNG"))
    for arguments, error, match in (
        ((3, "b.png"), TypeError, "`source` must be str or Path, not int"),
        ((tmp_path / "a.png", None), TypeError, "`target` must be"),
        ((tmp_path / "a.png", tmp_path / "a.xyz"), UserError, "write one of"),
        ((tmp_path / "a.png", tmp_path / "a.png"), UserError, "would replace an input"),
        ((tmp_path, tmp_path / "b.png"), UserError, "`source` .* is no file"),
        ((tmp_path / "no.png", tmp_path / "b.png"), UserError, "`source` .* is no file"),
    ):
        with pytest.raises(error, match=match):
            Repeater().upscale_file(*arguments)
    with pytest.raises(UserError, match="no effect"):
        Repeater().upscale_file(
            tmp_path / "a.png", tmp_path / "b.png", encoding=Encoding(quality=3)
        )
    for arguments, match in (
        ((None,), "`model` must be str or Path"),
        (("m", "float32", None, "1"), "`lora_scale` must be a number"),
    ):
        with pytest.raises(TypeError, match=match):
            Upscaler.from_folder(*arguments)
