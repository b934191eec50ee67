"""Training losses: arrays to a scalar and its parts, in float32.

Scale. Latent diffusion's code sums over the elements of an image and averages over the batch only;
here everything is a mean. With S elements in an image (3HW), its total loss divided by S is

    L1 + LPIPS + kl_weight KL / S + disc_weight min(|g_rec| / (|g_gen| + 1e-4), 1e4 / S) L_gen

where latent diffusion's ratio has a gradient S times as large and mostly hits its limit of 1e4. So
`kl_loss` and `adaptive_weight` divide by S, and latent diffusion's weights (1e-6 for KL, 0.5 for
the discriminator) keep their meaning. The common factor does not matter to Adam, apart from its
epsilon; it does matter to gradient clipping.
Source: latent-diffusion `LPIPSWithDiscriminator`; paper equations 2 and 4. For restoration: OSEDiff
  (`osediff.py`), whose losses the paper takes over.
"""

import jax
import jax.numpy as jnp

from tvt_jax.config import TONE_SIDE

_RATIO_EPS = 1e-4
_MAX_RATIO = 1e4


def reconstruction_loss(output, target, perceptual=None, perceptual_weight=1.0):
    """Mean absolute error of a reconstruction and, optionally, its perceptual distance.

    Args:
      output, target: [B, H, W, 3] in [-1, 1].
      perceptual: function of (output, target) that returns distances [B]; LPIPS.
      perceptual_weight: of the distance.

    Returns: (scalar float32, {"l1", and "lpips" with `perceptual`}).
    Source: paper equations 2 and 4, without the GAN.
    """
    l1 = jnp.mean(jnp.abs(output.astype(jnp.float32) - target.astype(jnp.float32)))
    if perceptual is None:
        return l1, {"l1": l1}
    distance = jnp.mean(perceptual(output, target))
    return l1 + perceptual_weight * distance, {"l1": l1, "lpips": distance}


def kl_loss(mean, logvar, image_elements):
    """KL divergence of the posterior from the standard normal distribution, for each image element.

    Args:
      mean, logvar: [B, h, w, C] of the encoder's distribution.
      image_elements: elements of one image, 3HW.

    Returns: (scalar float32, {"kl": the divergence of a whole latent, latent diffusion's figure}).
    """
    mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
    kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar) / mean.shape[0]
    return kl / image_elements, {"kl": kl}


def generator_loss(fake_logits):
    """The generator's adversarial loss: minus the mean logit.

    Args:
      fake_logits: [B, h, w, 1], of the generator's output.

    Returns: (scalar float32, {"generator": the same}).
    """
    loss = -jnp.mean(fake_logits.astype(jnp.float32))
    return loss, {"generator": loss}


def discriminator_loss(real_logits, fake_logits):
    """Hinge loss of the discriminator; its inputs must not carry gradients to the generator.

    Args:
      real_logits, fake_logits: [B, h, w, 1], of two separate calls.

    Returns: (scalar float32, {"discriminator": the same, "logits_real", "logits_fake": means}).
    """
    real, fake = real_logits.astype(jnp.float32), fake_logits.astype(jnp.float32)
    loss = 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))
    means = {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
    return loss, {"discriminator": loss, **means}


def adaptive_weight(features, kernel_shape, rec_cotangent, gen_cotangent):
    """Weight that gives the generator loss as much gradient as the reconstruction loss.

    Both are compared at the kernel of the decoder's last layer. Given the layer's input and the
    losses' gradients with respect to its output, this needs no pass through the decoder:

        output = conv_out(features)
        rec_cotangent = jax.grad(reconstruction)(output)     # without the KL term
        gen_cotangent = jax.grad(generator)(output)
        weight = disc_weight * adaptive_weight(...)
        backward pass of the decoder with rec_cotangent + weight * gen_cotangent

    Under a sharded batch the norms are those of the whole batch.

    Args:
      features: [B, H, W, C], what the last convolution reads.
      kernel_shape: (k, k, C, 3) of that convolution, of stride 1 and padding k // 2.
      rec_cotangent, gen_cotangent: [B, H, W, 3], gradients of the two losses.

    Returns: scalar float32 in [0, 1e4 / (3HW)], without gradient.
    Source: latent-diffusion `calculate_adaptive_weight`; paper section 3.2. The limit is explained
      at the top of this file.
    """
    features = features.astype(jnp.float32)
    cotangents = jnp.concatenate([rec_cotangent, gen_cotangent], axis=-1).astype(jnp.float32)
    height, width, inputs, outputs = kernel_shape

    def conv(kernel):
        padding = [(side // 2, side // 2) for side in (height, width)]
        return jax.lax.conv_general_dilated(
            features, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # The convolution is linear in its kernel, so its transpose is the gradient. Both gradients come
    # from one pass over the features, the second as three more output channels.
    kernel = jax.ShapeDtypeStruct((height, width, inputs, 2 * outputs), jnp.float32)
    (gradient,) = jax.linear_transpose(conv, kernel)(cotangents)
    rec_norm = jnp.sqrt(jnp.sum(jnp.square(gradient[..., :outputs])))
    gen_norm = jnp.sqrt(jnp.sum(jnp.square(gradient[..., outputs:])))
    limit = _MAX_RATIO / (rec_cotangent.size // rec_cotangent.shape[0])
    return jax.lax.stop_gradient(jnp.clip(rec_norm / (gen_norm + _RATIO_EPS), 0.0, limit))


def restoration_loss(
    output, target, perceptual=None, perceptual_weight=2.0, l2_weight=1.0, tone_weight=0.0
):
    """Mean squared error of a restored image and, optionally, of its perception and tones.

    Args:
      output, target: [B, H, W, 3] in [-1, 1]; with `tone_weight` H and W are multiples of
        `TONE_SIDE`.
      perceptual: function of (output, target) that returns distances [B]; LPIPS.
      perceptual_weight, l2_weight, tone_weight: of the three terms. The last is the mean absolute
        error of means over `TONE_SIDE` px a side: shifts of tone, which the squared error of all
        pixels hardly sees.

    Returns: (scalar float32, {"l2", and "tone" and "lpips" where they are used}, without weights).
    Source: OSEDiff `train_osediff.py`; paper section 3.3; the term on tones is this project's.
    """
    difference = output.astype(jnp.float32) - target.astype(jnp.float32)
    parts = {"l2": jnp.mean(jnp.square(difference))}
    total = l2_weight * parts["l2"]
    if tone_weight:
        b, h, w, c = difference.shape
        squares = difference.reshape(b, h // TONE_SIDE, TONE_SIDE, w // TONE_SIDE, TONE_SIDE, c)
        parts["tone"] = jnp.mean(jnp.abs(jnp.mean(squares, axis=(2, 4))))
        total += tone_weight * parts["tone"]
    if perceptual is not None:
        parts["lpips"] = jnp.mean(perceptual(output, target))
        total += perceptual_weight * parts["lpips"]
    return total, parts


def vsd_loss(latent, fake, real):
    """Variational score distillation: moves latents to where the teacher finds them more likely.

    Its gradient at the latent is (fake - real) / mean |latent - real| of each sample, up to the
    factor 2 / elements of a mean square; its value has the size of that gradient.

    Args:
      latent: [N, h, w, C] float32, what the generator made.
      fake, real: likewise, the clean latents that the critic and the teacher predict from its
        noised version. No gradient flows into them.

    Returns: (scalar float32, {"vsd": the same}).
    Source: OSEDiff `distribution_matching_loss`.
    """
    latent, fake, real = (x.astype(jnp.float32) for x in (latent, fake, real))
    distance = jnp.mean(jnp.abs(latent - real), axis=(1, 2, 3), keepdims=True)
    wanted = jax.lax.stop_gradient(latent - (fake - real) / distance)
    loss = jnp.mean(jnp.square(latent - wanted))
    return loss, {"vsd": loss}


def denoising_loss(predicted, noise):
    """Mean squared error of predicted noise; both [N, h, w, C]. Returns a scalar float32.

    Source: DDPM's simple loss; OSEDiff `diff_loss`.
    """
    return jnp.mean(jnp.square(predicted.astype(jnp.float32) - noise.astype(jnp.float32)))
