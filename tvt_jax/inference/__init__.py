"""From a photograph to a larger one: sizes, the network call, colour, image files."""
