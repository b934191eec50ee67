"""A SavedModel that needs nothing but TensorFlow, 2.19 or newer, with XLA on any platform.

The programs are stored as StableHLO of calling convention 9, which the TensorFlow that today's
servers are built on reads; `jax2tf` and orbax-export write a newer one. No other module imports
tensorflow.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.export.program import PLATFORMS, Program, Programs, lower
from tvt_jax.export.stablehlo import versions

_CALLING_CONVENTION = 9
_CALL_ARGUMENTS = dict(
    version=_CALLING_CONVENTION,
    platforms=[platform.upper() for platform in PLATFORMS],
    function_list=(),
    has_token_input_output=False,
    disabled_checks=(),
)


def write_saved_model(folder: Path, programs: Programs, about: Mapping[str, Any]) -> None:
    """Writes a SavedModel.

    Its signatures: `serving_default` enlarges images [b, h, w, 3] uint8 by 4, `restore` keeps their
    size, `encoded` takes one file's bytes and returns those of a PNG file, and
    `restore_with_tokens` takes a prompt's tokens [b, N] int32 too, where there is a text encoder.

    Args:
      folder: empty.
      programs: what to write.
      about: the model, for `metadata`, a function that returns it as JSON.

    Raises:
      UserError: TensorFlow is not installed, the disk is full or the folder cannot be written.
    """
    tf = _tensorflow()
    module = tf.Module()
    # Variables, not constants: a graph may have 2 GB.
    module.weights = {
        name: tf.Variable(np.asarray(value), trainable=False, name=name)
        for name, value in programs.weights.items()
    }
    calls = {
        name: _call(tf, program, programs.weights, module.weights)
        for name, program in programs.by_name.items()
    }
    images = tf.TensorSpec((None, None, None, 3), tf.uint8, "images")

    @tf.function(input_signature=[images])
    def serving_default(images):
        return {"images": calls["upscale"](_checked(tf, images))}

    @tf.function(input_signature=[images])
    def restore(images):
        return {"images": calls["restore"](_checked(tf, images))}

    @tf.function(input_signature=[tf.TensorSpec((), tf.string, "image_bytes")])
    def encoded(image_bytes):
        image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
        large = calls["upscale"](_checked(tf, image[None]))
        return {"image_bytes": tf.io.encode_png(tf.ensure_shape(large, (1, None, None, 3))[0])}

    text = json.dumps({**about, "versions": versions()}, sort_keys=True)

    @tf.function(input_signature=[])
    def metadata():
        return {"metadata": tf.constant(text)}

    signatures = {
        "serving_default": serving_default,
        "restore": restore,
        "encoded": encoded,
        "metadata": metadata,
    }
    if "restore_with_tokens" in calls:
        signatures["restore_with_tokens"] = _with_tokens(
            tf, calls["restore_with_tokens"], programs.by_name["restore_with_tokens"], images
        )
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"cannot write {folder}: {str(error).splitlines()[0]}.") from error


def _with_tokens(tf, call, program: Program, images):
    length = int(program.inputs[1][1].split(", ")[1])

    @tf.function(input_signature=[images, tf.TensorSpec((None, length), tf.int32, "tokens")])
    def restore_with_tokens(images, tokens):
        same = tf.debugging.assert_equal(
            tf.shape(images)[0], tf.shape(tokens)[0], "there must be tokens for every image"
        )
        with tf.control_dependencies([same]):
            return {"images": call(_checked(tf, images), tf.ensure_shape(tokens, (None, length)))}

    return restore_with_tokens


def _call(tf, program: Program, weights: Mapping[str, jax.Array], variables: Mapping[str, Any]):
    """The program as a function of TensorFlow's tensors."""
    from tensorflow.compiler.tf2xla.python import xla

    exported = lower(program, weights, _CALLING_CONVENTION)
    names = sorted(program.weights)
    kept = exported.module_kept_var_idx

    def call(*inputs):
        arguments = [*(variables[name] for name in names), *inputs]
        [result] = xla.call_module(
            [arguments[i] for i in kept],
            module=exported.mlir_module_serialized,
            Tout=[tf.uint8],
            Sout=[(None, None, None, 3)],
            **_CALL_ARGUMENTS,
        )
        return result

    return call


def _checked(tf, images):
    """The images, if they have the shape: XLA's own message would help nobody."""
    images = tf.ensure_shape(images, (None, None, None, 3))  # no caller of a loaded model checks it
    check = tf.debugging.assert_positive(tf.shape(images), "images must have no side of 0")
    with tf.control_dependencies([check]):
        return tf.identity(images)


def _tensorflow():
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            "format saved_model needs TensorFlow: pip install 'tvt-jax[export]'."
        ) from error
    return tf


def run_saved_model(folder: Path, images: np.ndarray) -> np.ndarray:
    """Runs `serving_default` on images [b, h, w, 3] uint8."""
    tf = _tensorflow()
    loaded = tf.saved_model.load(str(folder))
    return loaded.signatures["serving_default"](images=tf.constant(images))["images"].numpy()
