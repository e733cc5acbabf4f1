"""A process of the tests like official_client, in which the unmodified transformers speaks too.

The models are tiny, their weights made of a seed; a model's digest is the sha256 of its weights.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path
from typing import Any

import official_client
import torch
import transformers

TINY = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(
            **{"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_labels": 3},
            **{"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16},
        )
    ),
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            **{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5},
            layer_type="basic",
        )
    ),
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "models", "are", "found"]


def made(kind: str, seed: int) -> Any:
    torch.manual_seed(seed)
    return TINY[kind]().eval()


def digest(model: Any) -> str:
    parts = sorted((name, part.numpy().tobytes()) for name, part in model.state_dict().items())
    return hashlib.sha256(b"".join(name.encode() + part for name, part in parts)).hexdigest()


def push(kind: str, seed: int, repo: str, **how: Any) -> dict[str, Any]:
    """Publish a model as its users do."""
    model = made(kind, seed)
    done = model.push_to_hub(repo, **how)
    return {"oid": done.oid, "digest": digest(model)}


def push_tokenizer(repo: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(WORDS))
        transformers.BertTokenizer(str(path)).push_to_hub(repo)


def push_without_safetensors(seed: int, repo: str) -> str:
    """A model whose weights are in torch's own form, as in former years."""
    model = made("bert", seed)
    api = official_client.huggingface_hub.HfApi()
    api.create_repo(repo)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), Path(folder) / "pytorch_model.bin")
        api.upload_folder(repo_id=repo, folder_path=folder)
    return digest(model)


def pull(name: str, repo: str, **how: Any) -> str:
    """Fetch a model by a class of that name; its digest. Threads that this began have ended."""
    model = getattr(transformers, name).from_pretrained(repo, **how)
    for thread in threading.enumerate():
        if thread.name == "Thread-auto_conversion":
            thread.join()
    return digest(model)


def classify(repo: str, text: str) -> list[Any]:
    """What a pipeline says that fetches model and tokenizer, and what the tokenizer makes of it."""
    (said,) = transformers.pipeline("text-classification", model=repo, top_k=None)([text])
    ids = transformers.AutoTokenizer.from_pretrained(repo)(text)["input_ids"]
    return [sorted(one["label"] for one in said), ids]


if __name__ == "__main__":
    official_client.EXTRA |= {
        "push": push,
        "push_tokenizer": push_tokenizer,
        "push_without_safetensors": push_without_safetensors,
        "pull": pull,
        "classify": classify,
    }
    official_client.main()
