"""Other people's files in and out, and the paper's surgery on Stable Diffusion's UNet."""
