"""Networks in Flax NNX: modules only, no files, meshes, optimizers or PyTorch.

Images and features are [B, H, W, C]. Attribute names are those of diffusers and transformers, so
that the name of a weight in a PyTorch file follows from its place here.
"""
