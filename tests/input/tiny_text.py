"""Text encoders of the exact architectures, tiny and with random weights, and a CLIP tokenizer of single letters."""

import string

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

WORDS = ["fox", "red", "cat"]


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Letters, with WORDS as one token each; `!` has id 0, as in CLIP's own vocabulary."""
    letters = string.punctuation + string.digits + string.ascii_lowercase
    vocab = [*letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        merges += [(word[0], word[1]), (word[:2], word[2] + "</w>")]
        vocab += [word[:2], word + "</w>"]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocab)}
    assert len(ids) == len(vocab) and ids["!"] == 0
    return CLIPTokenizer(vocab=ids, merges=merges, pad_token=pad, model_max_length=77)


def clip(tokenizer: CLIPTokenizer, *, width: int = 32, layers: int = 3, projection: int | None = None, seed: int = 0):
    """A CLIP text model; with its projection where `projection` is given."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        eos_token_id=2,  # as the published configurations have it
        projection_dim=projection or 16,
    )
    return randomised(CLIPTextModelWithProjection if projection else CLIPTextModel, config, seed)


def bert_tokenizer() -> BertTokenizer:
    """Whole words of a few, letters otherwise, in windows of 16."""
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters), *WORDS]
    ids = {token: index for index, token in enumerate(vocab)}
    return BertTokenizer(vocab=ids, model_max_length=16)


def bert(tokenizer: BertTokenizer, seed: int = 0) -> BertModel:
    """A BERT that diffusers gives the attention mask to."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    config.use_attention_mask = True
    return randomised(BertModel, config, seed)


def randomised(kind, config, seed: int):
    """Every parameter random, norms and biases too, so that no layer can be left out unnoticed."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()
