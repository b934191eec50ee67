"""Settings of the degradation that makes low resolution of photographs."""

import dataclasses

from tvt_jax.errors import UserError


@dataclasses.dataclass
class DegradationPass:
    """Blur, resize, noise and JPEG; the defaults are the first pass of the preset `MILD`.

    The names are the keys of the public `params_*.yml`, where a final 2 marks the second pass.
    Ranges are (low, high) of a uniform distribution.
    """

    blur_prob: float = 1.0
    sinc_prob: float = 0.1  # of a sinc kernel; otherwise `kernel_prob` chooses the kind of bell:
    # iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    blur_sigma: tuple[float, float] = (0.2, 3.0)  # px
    betag_range: tuple[float, float] = (0.5, 4.0)  # exponent of the generalized bells
    betap_range: tuple[float, float] = (1.0, 2.0)  # exponent of the plateaus
    resize_prob: tuple[float, ...] = (0.2, 0.7, 0.1)  # of enlarging, reducing, keeping
    resize_range: tuple[float, float] = (0.3, 1.5)
    gaussian_noise_prob: float = 0.5  # otherwise Poisson noise
    noise_range: tuple[float, float] = (1.0, 15.0)  # standard deviation in levels of 0 to 255
    poisson_scale_range: tuple[float, float] = (0.05, 2.0)  # factor on the noise
    gray_noise_prob: float = 0.4  # of noise that is equal in the three channels
    jpeg_range: tuple[float, float] = (60.0, 95.0)  # quality

    def mistakes(self) -> list[str]:
        """What is wrong with the values; empty if nothing is."""
        rules = {
            "kernel_prob": ("6 probabilities that sum to 1", lambda v: _is_distribution(v, 6)),
            "resize_prob": ("3 probabilities that sum to 1", lambda v: _is_distribution(v, 3)),
            "blur_sigma": ("low, high above 0", lambda v: _is_range(v, 0.01, 1000)),
            # The two halves of these, below and above 1, are drawn from apart.
            "betag_range": ("low, high around 1", lambda v: _is_range(v, 0.01, 1000, around=1)),
            "betap_range": ("low, high around 1", lambda v: _is_range(v, 0.01, 1000, around=1)),
            "resize_range": ("low, high around 1", lambda v: _is_range(v, 0.01, 100, around=1)),
            "noise_range": ("low, high in 0 to 255", lambda v: _is_range(v, 0, 255)),
            "poisson_scale_range": ("low, high from 0", lambda v: _is_range(v, 0, 1000)),
            "jpeg_range": ("low, high in 1 to 100", lambda v: _is_range(v, 1, 100)),
        }
        wrong = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            rule, holds = rules.get(field.name, ("a probability", lambda v: 0 <= v <= 1))
            if not holds(value):
                wrong.append(f"{field.name} = {value} must be {rule}")
        return wrong


@dataclasses.dataclass
class DegradationConfig:
    """Real-ESRGAN's second-order degradation; the defaults are the preset `MILD`.

    The colour jitter and the conversion to grey of the public settings, 0 in all of them, have no
    counterpart.

    Source: xinntao/Real-ESRGAN `options/train_realesrnet_x4plus.yml`, cswry/OSEDiff (STRONG);
      cswry/SeeSR, csslc/PiSA-SR (MILD).
    """

    scale: int = 4  # the low resolution has 1/scale of the pixels along each side
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)  # px, all equally likely
    first: DegradationPass = dataclasses.field(default_factory=DegradationPass)
    second: DegradationPass = dataclasses.field(
        default_factory=lambda: DegradationPass(
            blur_prob=0.5,
            blur_sigma=(0.2, 1.5),
            resize_prob=(0.3, 0.4, 0.3),
            resize_range=(0.6, 1.2),  # of the low resolution's size, whatever the first pass left
            noise_range=(1.0, 12.0),
            poisson_scale_range=(0.05, 1.0),
            jpeg_range=(60.0, 100.0),
        )
    )
    final_sinc_prob: float = 0.8
    # Share of images that are blurred by a round bell and reduced by their mean, and nothing else.
    plain_prob: float = 0.0
    plain_blur_sigma: tuple[float, float] = (0.2, 2.0)  # px
    jpeg_codec: str = "diffjpeg"  # the reference's arithmetic; or "libjpeg", as files are written

    # Three oddities of the reference, kept unless these are set:
    # The first resize samples at the drawn factor although the size is rounded down. The far edges
    # of the low resolution are shifted by 1 px of the high resolution on average. True: they fit.
    aligned_resize: bool = False
    # "area" repeats pixels when it enlarges: a third of the images that come back at the size of
    # the high resolution are blocky. True: bilinear instead.
    smooth_area_enlargement: bool = False
    # The low resolution comes back by a filter that is drawn; at inference it is always Pillow's
    # bicubic one. True: by that one.
    enlarge_as_inference: bool = False

    def validate(self) -> None:
        """Checks every value.

        Raises:
          UserError: a probability, range, kernel size or name is impossible; all are named.
        """
        wrong = [
            f"{name}.{mistake}"
            for name in ("first", "second")
            for mistake in getattr(self, name).mistakes()
        ]
        if not self.kernel_sizes or any(n < 1 or n % 2 == 0 for n in self.kernel_sizes):
            wrong.append(f"kernel_sizes = {self.kernel_sizes} must be odd numbers")
        if self.scale < 1:
            wrong.append(f"scale = {self.scale} must be at least 1")
        for name in ("final_sinc_prob", "plain_prob"):
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(f"{name} = {getattr(self, name)} must be a probability")
        if not _is_range(self.plain_blur_sigma, 0.01, 1000):
            wrong.append(f"plain_blur_sigma = {self.plain_blur_sigma} must be low, high above 0")
        if self.jpeg_codec not in ("diffjpeg", "libjpeg"):
            wrong.append(f"jpeg_codec = {self.jpeg_codec} must be diffjpeg or libjpeg")
        if wrong:
            raise UserError(f"this degradation is not possible: {'; '.join(wrong)}.")


def _is_distribution(values: tuple[float, ...], count: int) -> bool:
    return len(values) == count and min(values) >= 0 and abs(sum(values) - 1) < 1e-6


def _is_range(
    values: tuple[float, float], low: float, high: float, around: float | None = None
) -> bool:
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        return False
    return around is None or values[0] <= around <= values[1]


# The public presets. Which of them the paper used is not known. They are shared: change a copy,
# `copy.deepcopy(STRONG)`.
MILD = DegradationConfig()
STRONG = DegradationConfig(
    first=DegradationPass(
        resize_range=(0.15, 1.5),
        noise_range=(1.0, 30.0),
        poisson_scale_range=(0.05, 3.0),
        jpeg_range=(30.0, 95.0),
    ),
    second=DegradationPass(
        blur_prob=0.8,
        blur_sigma=(0.2, 1.5),
        resize_prob=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        noise_range=(1.0, 25.0),
        poisson_scale_range=(0.05, 2.5),
        jpeg_range=(30.0, 95.0),
    ),
)
DEGRADATIONS = {"mild": MILD, "strong": STRONG}
