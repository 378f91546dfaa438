"""Tiny trainings with the real frameworks: `python -m … FRAMEWORK RUN [KILL_AFTER]`.

A training that is to be killed sends itself SIGKILL right after it handed over the checkpoint
of that step, while that is perhaps still being written.
"""

import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from artifact_pipelines import Run, start_run

FULL = 6


def data() -> tuple[Any, Any]:
    """Return numbers and labels that can be learned."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4)).astype("f4")
    return x, (x.sum(axis=1) > 0).astype("i8")


def die(run: Run, step: int, kill_after: int) -> None:
    """End without a word, as a preempted machine does, once something was registered."""
    if step == kill_after:
        while not run._saved:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


def torch(run: Run, kill_after: int) -> None:
    """Train a network with dropout, Adam and a schedule."""
    import torch

    from artifact_pipelines.integrations.torch import checkpoint, restore

    torch.manual_seed(3)
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(array) for array in data())
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=FULL)
    first = 0 if run.resume is None else restore(run.resume, model, optimizer, scheduler)
    for step in range(first + 1, FULL + 1):
        chosen = torch.randperm(len(x))[:32]
        loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        checkpoint(
            run,
            model,
            step=step,
            metrics={"loss": loss.item()},
            optimizer=optimizer,
            scheduler=scheduler,
        )
        die(run, step, kill_after)


def bfloat16(run: Run, kill_after: int) -> None:
    """Train in a precision that NumPy does not know."""
    import torch

    from artifact_pipelines.integrations.torch import checkpoint, restore

    torch.manual_seed(3)
    model = torch.nn.Linear(4, 2, dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    first = 0 if run.resume is None else restore(run.resume, model, optimizer)
    x = torch.from_numpy(data()[0]).to(torch.bfloat16)
    for step in range(first + 1, FULL + 1):
        loss = (model(x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        checkpoint(run, model, step=step, optimizer=optimizer)
        die(run, step, kill_after)


def lightning(run: Run, kill_after: int) -> None:
    """Train a module; its CheckpointIO is the run."""
    import pytorch_lightning as pl
    import torch

    from artifact_pipelines.integrations.lightning import RunCheckpointIO, RunLogger

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 2)
            )

        def training_step(self, batch: Any, _index: int) -> Any:
            x, y = batch
            loss = torch.nn.functional.cross_entropy(self.layers(x), y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]

    class Die(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
            die(run, trainer.current_epoch, kill_after)

    pl.seed_everything(3, verbose=False)
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(array) for array in data())
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=False
    )
    logger = RunLogger(run)
    trainer = pl.Trainer(
        max_epochs=FULL,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[RunCheckpointIO(run, logger)],
        callbacks=[
            pl.callbacks.ModelCheckpoint(dirpath="unused", save_top_k=-1, every_n_epochs=1),
            Die(),
        ],
    )
    trainer.fit(Module(), loader, ckpt_path=None if run.resume is None else run.resume.reference)


def transformers(run: Run, kill_after: int) -> None:
    """Train a tiny language model with `Trainer`."""
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from artifact_pipelines.integrations.transformers import RunCallback, resume_folder

    class Die(TrainerCallback):
        def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            die(run, state.global_step, kill_after)

    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (24, 8)))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            GPT2LMHeadModel(config),
            TrainingArguments(
                output_dir=folder,
                max_steps=FULL,
                per_device_train_batch_size=4,
                save_steps=1,
                save_total_limit=1,
                logging_steps=1,
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                seed=3,
            ),
            train_dataset=rows,
            callbacks=[RunCallback(run), Die()],
        )
        trainer.train(resume_from_checkpoint=resume_folder(run, folder))


def keras(run: Run, kill_after: int) -> None:
    """Train a network with dropout by `fit`."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    from artifact_pipelines.integrations.keras import RunCallback, restore

    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, _logs: Any = None) -> None:
            die(run, epoch, kill_after)

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    first = 0 if run.resume is None else restore(run.resume, model)
    x, y = data()
    model.fit(
        x,
        y,
        epochs=FULL,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=[RunCallback(run), Die()],
    )


def xgboost(run: Run, kill_after: int) -> None:
    """Boost trees."""
    import xgboost

    from artifact_pipelines.integrations.xgboost import RunCallback, resume

    class Die(xgboost.callback.TrainingCallback):
        def before_iteration(self, model: Any, _epoch: int, _log: Any) -> bool:
            die(run, model.num_boosted_rounds(), kill_after)
            return False

    x, y = data()
    matrix = xgboost.DMatrix(x, y)
    booster, done = resume(run)
    xgboost.train(
        {"objective": "binary:logistic", "max_depth": 2, "seed": 3, "nthread": 1},
        matrix,
        num_boost_round=FULL - done,
        evals=[(matrix, "train")],
        verbose_eval=False,
        xgb_model=booster,
        callbacks=[RunCallback(run), Die()],
    )


def lightgbm(run: Run, kill_after: int) -> None:
    """Boost trees."""
    import lightgbm

    from artifact_pipelines.integrations.lightgbm import resume, run_callback

    x, y = data()
    model, done = resume(run)

    def end(env: Any) -> None:
        die(run, done + env.iteration - env.begin_iteration, kill_after)

    end.before_iteration = True  # type: ignore[attr-defined] # where LightGBM looks
    lightgbm.train(
        {"objective": "binary", "num_leaves": 4, "seed": 3, "num_threads": 1, "verbose": -1},
        lightgbm.Dataset(x, y),
        num_boost_round=FULL - done,
        init_model=model,
        callbacks=[run_callback(run), end],
    )


def sklearn(run: Run, kill_after: int) -> None:
    """Train a network by `partial_fit`, with Adam and shuffling."""
    from sklearn.neural_network import MLPClassifier

    from artifact_pipelines.integrations.sklearn import checkpoint, restore

    x, y = data()
    if run.resume is None:
        first, model = 0, MLPClassifier((8,), batch_size=16, random_state=3)
    else:
        first, model = run.resume.step, restore(run.resume)
    for step in range(first + 1, FULL + 1):
        model.partial_fit(x, y, classes=[0, 1])
        checkpoint(run, model, step=step, metrics={"loss": model.loss_})
        die(run, step, kill_after)


FRAMEWORKS: dict[str, Callable[[Run, int], None]] = {
    found.__name__: found
    for found in (torch, bfloat16, lightning, transformers, keras, xgboost, lightgbm, sklearn)
}


def main() -> None:
    """Train as the command line says."""
    warnings.simplefilter("ignore")
    framework, name, *rest = sys.argv[1:]
    os.chdir(Path(os.environ["ARTIFACT_PIPELINES_HOME"]).parent)
    with start_run("p", name, params={"framework": framework, "seed": 3}) as run:
        FRAMEWORKS[framework](run, int(rest[0]) if rest else -1)


if __name__ == "__main__":
    main()
