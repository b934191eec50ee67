"""A CLIP tokenizer of a few hundred words."""

import json
from pathlib import Path


def write_tokenizer(folder: Path) -> int:
    """Writes a byte-level CLIP tokenizer without merges; returns the size of its vocabulary."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(33, 127)] + [chr(c) for c in range(161, 256) if c != 173]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    return len(vocabulary)
