"""Train a small transformer for real, and keep its checkpoints for the other benchmarks.

    python benchmarks/series.py [FOLDER]

About 20M parameters, AdamW, one thread, on the source text of Python's own library. Four
series are written below the folder: `full` (fp32 training, weights and optimizer), `frozen`
(a fine-tune of the last block), `lora` (adapters beside the weights) and `bf16` (a fine-tune
of all weights in bf16). A folder that has them is left as it is; the default
one is in the user's cache. It needs the extra `bench`.
"""

import os
import sys
import sysconfig
from pathlib import Path

try:
    import torch
    from safetensors.torch import save_file
    from torch import nn
except ImportError:
    print("skipped: torch is not installed; it comes with the extra 'bench'")
    sys.exit(0)

WIDTH, BLOCKS, HEADS, VOCABULARY = 448, 8, 7, 4096
BATCH, CONTEXT = 4, 64
WARM, BETWEEN = 40, 6  # steps before the first checkpoint, and before each one
SEED = 7
DONE = "complete"


class Model(nn.Module):  # type: ignore[misc]
    """A decoder of text, with room for adapters."""

    def __init__(self) -> None:
        """Begin with random weights."""
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.place = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.adapter: nn.ParameterDict | None = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return a score for each token that could come next."""
        x = self.embed(ids) + self.place
        mask = torch.full((CONTEXT, CONTEXT), float("-inf"), dtype=x.dtype).triu(1)
        for number, block in enumerate(self.blocks):
            x = block(x, src_mask=mask)
            if self.adapter is not None:
                x = x + x @ self.adapter[f"down{number}"] @ self.adapter[f"up{number}"]
        return self.norm(x) @ self.embed.weight.T

    def adapt(self) -> list[nn.Parameter]:
        """Return the weights of new adapters of rank eight."""
        self.adapter = nn.ParameterDict()
        for number in range(BLOCKS):
            self.adapter[f"down{number}"] = nn.Parameter(0.02 * torch.randn(WIDTH, 8))
            self.adapter[f"up{number}"] = nn.Parameter(torch.zeros(8, WIDTH))
        return list(self.adapter.parameters())


def main() -> int:
    """Write the series that are missing."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default_cache()
    if (folder / DONE).exists():
        return 0
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokens, model = torch.tensor(text()), Model()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")
    train(model, tokens, torch.optim.AdamW(model.parameters(), lr=3e-4), WARM)
    series(folder / "full", model, tokens, list(model.parameters()), rate=3e-4, count=4)
    series(
        folder / "frozen", model, tokens, list(model.blocks[-1].parameters()), rate=1e-4, count=6
    )
    series(folder / "lora", model, tokens, model.adapt(), rate=1e-3, count=4)
    model.adapter = None
    model = model.to(torch.bfloat16)
    series(folder / "bf16", model, tokens, list(model.parameters()), rate=1e-5, count=4)
    (folder / DONE).touch()
    return 0


def series(
    folder: Path,
    model: Model,
    tokens: torch.Tensor,
    chosen: list[nn.Parameter],
    *,
    rate: float,
    count: int,
) -> None:
    """Train some of the parameters, and keep a checkpoint now and then."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(chosen, lr=rate)
    for number in range(count):
        loss = train(model, tokens, optimizer, BETWEEN)
        save(folder / f"{number:04d}", model, optimizer)
        print(f"{folder.name} {number}: loss {loss:.3f}", flush=True)


def train(
    model: Model, tokens: torch.Tensor, optimizer: torch.optim.Optimizer, steps: int
) -> float:
    """Take some steps, and return the last one's loss."""
    loss = 0.0
    for _ in range(steps):
        starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,))
        batch = torch.stack([tokens[at : at + CONTEXT + 1] for at in starts])
        scores = model(batch[:, :-1]).float().flatten(0, 1)
        found = nn.functional.cross_entropy(scores, batch[:, 1:].flatten())
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        loss = found.item()
    return loss


def save(target: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint as trainers lay it out."""
    target.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    adapter = {key: weights.pop(key) for key in list(weights) if key.startswith("adapter")}
    save_file(weights, target / "model.safetensors")
    if adapter:
        save_file(adapter, target / "adapter.safetensors")
    moments = {
        f"{number}.{key}": value.contiguous()
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if key != "step"
    }
    save_file(moments, target / "optimizer.safetensors")


def text() -> list[int]:
    """Return the tokens of some modules of Python's library: pairs of bytes."""
    library = Path(sysconfig.get_path("stdlib"))
    data = b"".join(file.read_bytes() for file in sorted(library.glob("*.py"))[:60])
    pairs = zip(data[::2], data[1::2], strict=False)
    return [(first * 31 + second) % VOCABULARY for first, second in pairs]


def default_cache() -> Path:
    """Return where the series are kept when no folder is named."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "artifact-pipelines" / "series"


if __name__ == "__main__":
    sys.exit(main())
