"""The recognisers of Real-CE's authors, with weights of our own."""

import jax
import numpy as np
import pytest
import torch

from tvt_jax.errors import UserError
from tvt_jax.evaluation import crnn
from tvt_jax.evaluation.recogniser import load_recogniser

ALPHABET = "欢迎光临AB"
WIDTHS = (64, 128, 256, 256, 512, 512, 512)


def random_state(classes, english):
    """A state dict as the authors' files have it: names and shapes written down, not derived."""
    rng, state, channels = np.random.default_rng(int(english)), {}, 1 if english else 3

    def add(name, *shape, mean=0.0):
        values = mean + rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 10.0))
        state[name] = torch.tensor(values, dtype=torch.float32)

    for i, width in enumerate(WIDTHS):
        kernel = 2 if english and i == 6 else 3
        add(f"cnn.conv{i}.weight", width, channels, kernel, kernel)
        add(f"cnn.conv{i}.bias", width)
        if i in (2, 4, 6):
            add(f"cnn.batchnorm{i}.weight", width, mean=1.0)
            add(f"cnn.batchnorm{i}.bias", width)
            add(f"cnn.batchnorm{i}.running_mean", width)
            state[f"cnn.batchnorm{i}.running_var"] = torch.full((width,), 0.3)
        channels = width
    for i, (inputs, outputs) in enumerate(((512, 256), (256, classes))):
        for suffix in ("l0", "l0_reverse"):
            add(f"rnn.{i}.rnn.weight_ih_{suffix}", 1024, inputs)
            add(f"rnn.{i}.rnn.weight_hh_{suffix}", 1024, 256)
            add(f"rnn.{i}.rnn.bias_ih_{suffix}", 1024)
            add(f"rnn.{i}.rnn.bias_hh_{suffix}", 1024)
        add(f"rnn.{i}.embedding.weight", outputs, 512)
        add(f"rnn.{i}.embedding.bias", outputs)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("crnn")
    (path / "benchmark.txt").write_text(ALPHABET + "\n", encoding="utf-8")
    chinese = random_state(len(ALPHABET) + 1, english=False)
    torch.save({f"module.{n}": t for n, t in chinese.items()}, path / "scene_base_CRNN.pth")
    torch.save([random_state(37, english=True)], path / "crnn.pth")
    return path


def reference(state, image, english):
    """The network in JAX, NCHW, its layers one by one: [columns, classes]."""
    p = {name: np.asarray(tensor) for name, tensor in state.items()}

    def pooled(x, strides, padding):
        padding = [(0, 0), (0, 0), *((n, n) for n in padding)]
        windows = (1, 1, 2, 2), (1, 1, *strides), padding
        return np.asarray(jax.lax.reduce_window(x, -np.inf, jax.lax.max, *windows))

    x = image
    for i in range(7):
        pad = 0 if english and i == 6 else 1
        kernel = p[f"cnn.conv{i}.weight"]
        x = np.asarray(jax.lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2))
        x = x + p[f"cnn.conv{i}.bias"][:, None, None]
        if i in (2, 4, 6):
            name = f"cnn.batchnorm{i}"
            mean = x.mean((0, 2, 3)) if not english else p[f"{name}.running_mean"]
            var = x.var((0, 2, 3)) if not english else p[f"{name}.running_var"]
            scale = p[f"{name}.weight"] / np.sqrt(var + 1e-5)
            x = (x - mean[:, None, None]) * scale[:, None, None] + p[f"{name}.bias"][:, None, None]
        x = np.maximum(x, 0)
        if i in (0, 1):
            x = pooled(x, (2, 2), (0, 0)) if english else pooled(x, (1, 2), (1, 0))
        if i in (3, 5):
            x = pooled(x, (2, 1), (0, 1))
    assert x.shape[2] == (1 if english else 8)
    columns = x.mean(2)[0].T
    for i in range(2):
        both = [lstm(p, f"rnn.{i}.rnn.{{}}_l0", columns)]
        both.append(lstm(p, f"rnn.{i}.rnn.{{}}_l0_reverse", columns[::-1])[::-1])
        columns = np.concatenate(both, 1) @ p[f"rnn.{i}.embedding.weight"].T
        columns = columns + p[f"rnn.{i}.embedding.bias"]
    return columns


def lstm(p, name, inputs):
    h = c = np.zeros(256)
    outputs = []
    bias = p[name.format("bias_ih")] + p[name.format("bias_hh")]
    for x in inputs:
        gates = p[name.format("weight_ih")] @ x + p[name.format("weight_hh")] @ h + bias
        i, f, g, o = np.split(gates, 4)
        sigmoid = [1 / (1 + np.exp(-v)) for v in (i, f, o)]
        c = sigmoid[1] * c + sigmoid[0] * np.tanh(g)
        h = sigmoid[2] * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


@pytest.mark.parametrize("english", [True, False])
def test_networks_are_the_authors(folder, english):
    name, classes = ("crnn.pth", 37) if english else ("scene_base_CRNN.pth", len(ALPHABET) + 1)
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, 1 if english else 3, 32, 26)).astype(np.float32)
    got = crnn._load(folder / name, classes, english)(torch.from_numpy(image))[:, 0].numpy()
    want = reference(random_state(classes, english), image, english)
    assert got.shape == want.shape
    # Sums of thousands of products in float32, and the reference's in float64 after the CNN.
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_what_the_networks_see():
    """Height 32 and the width that follows; grey by the authors' weights, blue first."""
    image = np.zeros((16, 40, 3), np.uint8)
    image[..., 0] = 200  # red
    chinese, english = (crnn._input(image, language) for language in ("CHN", "ENG"))
    assert chinese.shape == (1, 3, 32, 80) and english.shape == (1, 1, 32, 80)
    assert chinese[0, :, 5, 5].tolist() == [0, 0, 200]
    assert abs(english[0, 0, 5, 5].item() - 0.114 * 200 / 255) < 1e-6
    assert crnn._input(image[:, :4], "ENG").shape[-1] == 16
    assert crnn._input(image[:1], "ENG").shape[-1] == 1024


def test_repetitions_and_blanks():
    assert crnn._greedy([0, 1, 1, 0, 1, 2, 2, 3, 0], "abc") == "aabc"
    assert crnn._greedy([0, 0], "abc") == ""


def test_the_recogniser(folder):
    recogniser = load_recogniser(folder)
    assert recogniser.name.startswith("CRNN of Real-CE (scene_base_CRNN.pth ")
    assert recogniser.alphabet == frozenset(ALPHABET)
    image = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    assert set(recogniser.read(image, "CHN")) <= set(ALPHABET)
    assert set(recogniser.read(image, "ENG")) <= set("0123456789abcdefghijklmnopqrstuvwxyz")


def test_files_that_do_not_fit(folder, tmp_path):
    with pytest.raises(UserError, match="scene_base_CRNN.pth does not exist"):
        load_recogniser(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "benchmark.txt").write_text(ALPHABET + "C", encoding="utf-8")
    with pytest.raises(UserError, match="scene_base_CRNN.pth does not fit .*of another shape"):
        load_recogniser(tmp_path)
