"""Outside trainers that leave checkpoints in an inbox: `python -m … LAYOUT FOLDER`.

They use the real library and nothing of ours. `recorded/` holds what they left, for machines
without these libraries.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def orbax(folder: Path) -> None:
    """Leave two steps of a CheckpointManager with metrics, and one saved alone."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: float(metrics["loss"]))
    saver = ocp.CheckpointManager(folder, options=options)
    for step in (10, 20):
        tree = {"w": np.arange(6.0) + step, "b": {"x": np.ones(3)}}
        saver.save(step, args=ocp.args.StandardSave(tree), metrics={"loss": 5 / step})
    saver.wait_until_finished()
    alone = ocp.StandardCheckpointer()
    alone.save(folder / "alone_30", {"w": np.arange(4.0)})
    alone.wait_until_finished()
    plain = ocp.PyTreeCheckpointer(use_ocdbt=False)
    plain.save(folder / "plain_40", {"w": np.arange(4.0), "b": {"x": np.ones(3)}})


def dcp(folder: Path) -> None:
    """Leave two steps of `torch.distributed.checkpoint`."""
    import torch

    # It exports its functions without saying so.
    distributed: Any = importlib.import_module("torch.distributed.checkpoint")
    model = torch.nn.Linear(4, 2)
    for step in (10, 20):
        state: dict[str, Any] = {"model": model.state_dict(), "step": step}
        distributed.save(state, checkpoint_id=folder / f"step-{step}")
        model.weight.data += 1


def lightning(folder: Path) -> None:
    """Leave a checkpoint of each epoch."""
    import pytorch_lightning as pl
    import torch

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, _index: int) -> Any:
            return (self.layer(batch[0]) ** 2).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    rows = torch.utils.data.TensorDataset(torch.ones(8, 4))
    pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[pl.callbacks.ModelCheckpoint(dirpath=folder, save_top_k=-1)],
    ).fit(Module(), torch.utils.data.DataLoader(rows, batch_size=4))


def huggingface(folder: Path) -> None:
    """Leave what `Trainer` saves, with the training's state."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (24, 8)))
    Trainer(
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8)),
        TrainingArguments(
            output_dir=str(folder),
            max_steps=4,
            save_steps=2,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
    ).train()


LAYOUTS: dict[str, Callable[[Path], None]] = {
    found.__name__: found for found in (orbax, dcp, lightning, huggingface)
}

if __name__ == "__main__":
    LAYOUTS[sys.argv[1]](Path(sys.argv[2]).absolute())
