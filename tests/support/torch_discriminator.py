"""PatchGAN in PyTorch, written from the description of taming-transformers' discriminator."""

from torch import nn


def nlayer_discriminator(base=64, num_layers=3) -> nn.Module:
    """4x4 convolutions, batch normalisation, LeakyReLU 0.2; weights by `weights_init`."""
    layers = [nn.Conv2d(3, base, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    width = base
    for n in range(1, num_layers + 1):
        before, width = width, base * min(2**n, 8)
        stride = 2 if n < num_layers else 1
        layers += [
            nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
        ]
    layers.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))

    class NLayerDiscriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(*layers)

        def forward(self, x):
            return self.main(x)

    def weights_init(module):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

    return NLayerDiscriminator().apply(weights_init)


def parameters_of(module: nn.Module) -> dict:
    """The state dict without the running averages, which the networks here do not have."""
    names = {name for name, _ in module.named_parameters()}
    return {name: tensor for name, tensor in module.state_dict().items() if name in names}
