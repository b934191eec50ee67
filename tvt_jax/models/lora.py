"""Low-rank adapters on the convolutions and linear layers of an existing network.

Adapters are added to a built network, so networks need no code for them, and the base weights keep
their paths: a checkpoint of the base loads the same way with and without adapters.
Source: peft `LoraConfig(init_lora_weights="gaussian")`, its `Linear` and `Conv2d` layers.
"""

import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import LoRAConfig
from tvt_jax.models.convolution import conv2d, conv_on_doubled
from tvt_jax.models.layers import Conv2d, InitKeys, Linear, normal


class LoRALinear(Linear):
    """Linear layer plus `scale` times lora_a [in, rank] lora_b [rank, out]."""

    def __call__(self, x):
        """Maps [..., in] to [..., out]."""
        y = super().__call__(x)
        a, b = self.lora_a[...].astype(y.dtype), self.lora_b[...].astype(y.dtype)
        return y + (x.astype(y.dtype) @ a @ b) * self.lora_scale


class LoRAConv2d(Conv2d):
    """Convolution plus `scale` times a convolution to `rank` channels and a 1x1 convolution.

    lora_a [kh, kw, in, rank] has the stride and padding of the layer; lora_b is [1, 1, rank, out].
    """

    def __call__(self, x):
        """Maps [B, H, W, in] to [B, H', W', out]."""
        x = x.astype(self.dtype)
        narrow = conv2d(x, self.lora_a[...], self.strides, self.padding)
        return super().__call__(x) + self._widened(narrow)

    def on_doubled(self, x):
        """Maps [B, h, w, in] to [B, 2h, 2w, out]; see `Conv2d`."""
        x = x.astype(self.dtype)
        return super().on_doubled(x) + self._widened(conv_on_doubled(x, self.lora_a[...]))

    def _widened(self, narrow):
        return (narrow @ self.lora_b[0, 0].astype(narrow.dtype)) * self.lora_scale


def lora_targets(model: nnx.Module, config: LoRAConfig) -> list[str]:
    """Names of the layers that `config` gives an adapter, in the network's order."""
    return [
        name
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear | Conv2d)
        and any(target in (name := ".".join(map(str, path))) for target in config.targets)
        and not any(word in name for word in config.excluded)
        and (not config.parts or any(f"{name}.".startswith(f"{p}.") for p in config.parts))
    ]


def add_lora(model: nnx.Module, config: LoRAConfig, rngs: InitKeys) -> list[str]:
    """Adds adapters to a network in place; its function does not change (lora_b is zero).

    Args:
      model: a network of this package without adapters, real or abstract.
      config: rank, scale and which layers.
      rngs: random numbers for lora_a ~ N(0, 1 / rank) (standard deviation, as peft).

    Returns: the names of the layers, in the network's order.
    """
    names = set(lora_targets(model, config))
    added = []
    for path, module in list(nnx.iter_modules(model)):
        name = ".".join(map(str, path))
        if name not in names:
            continue
        *kernel_size, features_in, features_out = module.kernel.shape
        dtype = module.kernel.dtype
        # The layer becomes one with an adapter; its own parameters stay where they are.
        module.__class__ = LoRAConv2d if kernel_size else LoRALinear
        a_shape = (*kernel_size, features_in, config.rank)
        b_shape = (*(1 for _ in kernel_size), config.rank, features_out)
        module.lora_a = nnx.LoRAParam(normal(1 / config.rank)(rngs.params(), a_shape, dtype))
        module.lora_b = nnx.LoRAParam(jnp.zeros(b_shape, dtype))
        module.lora_scale = config.scale
        added.append(name)
    return added
