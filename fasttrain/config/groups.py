"""The settings of a training run, in groups. Each setting is a field with type, range, default and a line of help.

`config.schema.TrainConfig` inherits from all groups. A function that needs only one group takes that as its argument.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fasttrain.config.base import Settings, Share, Switch
from fasttrain.config.geometry import CROP_PCT, Geometry, ResizeMode
from fasttrain.config.location import parse_location, user_path
from fasttrain.config.model_name import is_object, model_name
from fasttrain.config.monitor import MonitorName
from fasttrain.config.trackers import MLFLOW, Trackers
from fasttrain.config.values import (
    LONGEST_WARMUP,
    CacheSize,
    Fold,
    Progressive,
    RandAugment,
    SaveEvery,
    usual_warmup,
)


class DataSettings(Settings):
    """Settings of the photographs: where they are, and how they are read and cropped."""

    data: str | Path = Field(
        Path("shards"),
        description="shards made by `convert` (a folder or an s3://, gs:// or https:// URL), a folder that holds one "
        "such data set, or a folder of photographs with one subfolder per class",
    )
    cache_size: CacheSize | None = Field(
        None, description="most disk space for shards from a URL, such as 50GB; default: all but 5 GB of the disk"
    )
    loader: str = Field("auto", description="auto, or the name of a loader (`fasttrain doctor` lists them)")
    workers: int | None = Field(
        None, ge=0, le=512, description="number of loader processes or threads; default: one per core"
    )
    shuffle: Literal["full", "shards"] = Field(
        "full", description="shards: shuffle a few shards at a time, for data larger than memory"
    )
    sampling: Literal["none", "balanced"] = Field(
        "none", description="balanced: train equally often on every class; the length of an epoch stays the same"
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        "error", description="skip: leave out photographs that have changed or don't decode, at most 1 % of an epoch"
    )
    image_size: int = Field(
        224,
        ge=16,
        le=2048,
        description="side of the model's square input in training, px; if not given, a model that is not made for 224 "
        "gets its own size",
    )
    eval_size: int | None = Field(
        None, ge=16, le=2048, description="side of the input in evaluation and export, px; default: --image-size"
    )
    crop_pct: Share = Field(
        CROP_PCT, description="evaluation: side of the centre crop, as a share of the photograph's short side"
    )
    resize_mode: ResizeMode = Field(
        "crop",
        description="evaluation: crop the centre, squash the entire photograph to a square, or letterbox it (keep its "
        "shape and fill the rest with grey)",
    )
    crop_scale: tuple[Share, Share] = Field(
        (0.08, 1.0), description="RandomResizedCrop: least and greatest area of the crop, as shares of the photograph"
    )
    interpolation: Literal["bilinear", "bicubic", "auto"] = Field(
        "bilinear", description="filter that resizes photographs; auto: the one that the pretrained weights expect"
    )
    hflip: float = Field(
        0.5, ge=0, le=1, description="probability of a horizontal flip; 0 if mirror images are wrong, as for letters"
    )
    vflip: float = Field(
        0.0, ge=0, le=1, description="probability of a vertical flip, for photographs that may be upside down (aerial)"
    )
    progressive: Progressive | None = Field(
        None, description="let the training images grow over the epochs, such as 128:224 px; evaluation keeps its size"
    )
    limit_batches: int | None = Field(
        None, ge=1, description="use at most this many batches per epoch and evaluation, for a quick trial"
    )

    @field_validator("data", mode="after")
    @classmethod
    def _location(cls, data: str | Path) -> str | Path:
        return parse_location(data)

    @field_validator("crop_scale", mode="after")
    @classmethod
    def _least_first(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"crop_scale = {scale} runs backwards; did you mean {scale[::-1]}?")
        return scale

    @model_validator(mode="after")
    def _crop_pct_of_a_crop(self) -> DataSettings:
        if self.resize_mode != "crop" and self.crop_pct != CROP_PCT:
            raise ValueError(
                f"crop_pct = {self.crop_pct:g} has no meaning with resize_mode = '{self.resize_mode}', which crops "
                "nothing; leave one of them out"
            )
        return self

    @property
    def geometry(self) -> Geometry:
        """Return how evaluation resizes and crops photographs. `interpolation` must name a filter, not be "auto"."""
        assert self.interpolation != "auto"
        return Geometry(self.eval_size or self.image_size, self.crop_pct, self.resize_mode, self.interpolation)


class AugmentationSettings(Settings):
    """Settings of the augmentation on the device, after the loader's crop and flip."""

    color_jitter: float = Field(
        0.0, ge=0, le=1, description="ColorJitter: greatest change of brightness, contrast and saturation"
    )
    rand_augment: RandAugment | None = Field(
        None, description="RandAugment, such as n2-m9: 2 operations per photograph at magnitude 9 of 10"
    )
    trivial_augment: bool = Field(
        False,
        description="TrivialAugmentWide: one operation per photograph at a random magnitude; not with --rand-augment",
    )
    random_erasing: float = Field(
        0.0, ge=0, le=1, description="RandomErasing: probability of erasing a rectangle of a photograph"
    )
    mixup: float = Field(0.0, ge=0, le=100, description="Mixup: alpha of the mixing ratio; 0: off")
    cutmix: float = Field(
        0.0, ge=0, le=100, description="CutMix: alpha of the mixing ratio; 0: off; with --mixup each batch gets one"
    )

    @model_validator(mode="after")
    def _one_policy(self) -> AugmentationSettings:
        if self.trivial_augment and self.rand_augment is not None:
            raise ValueError(
                f"trivial_augment can't be combined with rand_augment = {self.rand_augment}; leave one of them out"
            )
        return self


class ModelSettings(Settings):
    """Settings of the model and of the weights that it starts from."""

    model: str = Field(
        "mobilenetv2_100",
        description="a model of timm (`fasttrain models` lists them), hf-hub:OWNER/NAME, or package.module:function "
        "for a function of your own that creates the model",
    )
    pretrained: bool = Field(True, description="start from timm's ImageNet weights")
    weights: Path | None = Field(
        None, description="start from a state_dict or checkpoint of any trainer instead, or from a run folder"
    )
    freeze: int = Field(0, ge=0, description="don't train the first N blocks of the model (the stem is the first)")
    freeze_bn: Switch = Field(
        "auto",
        description="keep BatchNorm's running statistics as they are at the start; auto: only with --head-epochs",
    )
    linear_probe: bool = Field(
        False, description="train only the classifier, solved for on cached features; each epoch tries one L2 penalty"
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="probability of dropout before the classifier")
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="stochastic depth: probability of skipping the last block; it grows linearly from 0 at the first",
    )

    @field_validator("model", mode="before")
    @classmethod
    def _name(cls, model: Any) -> str:
        name = model_name(model)
        if is_object(name) and not isinstance(model, str):
            raise ValueError(
                f"model = {name} can't be imported by its name; give a function of a module, or call train(model=…)"
            )
        return name

    @field_validator("weights", mode="after")
    @classmethod
    def _weights_below_home(cls, weights: Path | None) -> Path | None:
        return None if weights is None else user_path(weights)


class OptimizationSettings(Settings):
    """Settings of the epochs, the batches, the optimizer, the schedule and the loss."""

    recipe: Literal["fast", "accurate", "classic"] | None = Field(
        None, description="defaults for the settings below that suit each other: fast, accurate or classic"
    )
    epochs: int = Field(10, ge=1, le=100_000, description="number of passes over the training photographs")
    minutes: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="train the best model within this time; chooses epochs, sizes and frozen blocks",
    )
    head_epochs: int = Field(
        0, ge=0, description="train only the classifier in the first N epochs, on cached features if possible"
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        64, description="photographs per batch, on each GPU; auto: the fastest on a GPU, the largest on a CPU"
    )
    grad_accumulation: int = Field(
        1, ge=1, le=65_536, description="number of batches whose gradients are added up for one optimizer step"
    )
    optimizer: str = Field("adamw", description="adamw, adam, sgd, or another optimizer of timm")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="the greatest learning rate of the schedule")
    weight_decay: float = Field(
        1e-4, ge=0, le=10, description="weight decay of the optimizer; not applied to norms and biases"
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="multiply the learning rate by this for each block further from the classifier"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, for optimizers that have this setting")
    scheduler: Literal["plateau", "cosine", "onecycle", "constant"] = Field(
        "cosine", description="learning-rate schedule; plateau: lower the rate when --monitor stops improving"
    )
    warmup_epochs: float = Field(
        LONGEST_WARMUP,
        ge=0,
        description="cosine only: epochs in which the learning rate first rises linearly; if not given, half an epoch, "
        "but without head_epochs at most a tenth of the run",
    )
    patience: int = Field(2, ge=0, description="plateau only: epochs without improvement before the rate is lowered")
    factor: float = Field(0.1, gt=0, lt=1, description="plateau only: factor by which the rate is lowered")
    monitor: MonitorName = Field(
        "val_loss",
        description="metric that chooses the best epoch, and that early stopping and plateau follow: val_loss, top1, "
        "macro_f1, or map for multi-label data; auto: top1 or map",
    )
    early_stopping: int = Field(5, ge=0, description="stop after N epochs without improvement; 0: never")
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="focal: well-classified photographs count less; validation uses cross-entropy"
    )
    focal_gamma: float = Field(
        2.0, ge=0, le=10, description="focal loss: how strongly well-classified photographs are discounted; 0: not"
    )
    teacher: str | None = Field(
        None,
        description="distillation: learn the class probabilities of this model: a run folder, a checkpoint, or a timm "
        "model with the same classes",
    )
    teacher_temperature: float = Field(
        1.0, gt=0, le=100, description="distillation: divide the logits of both models by this; above 1: softer"
    )
    teacher_weight: float = Field(
        1.0, gt=0, le=1, description="distillation: the teacher's share of the loss; the labels get the rest"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="label smoothing s, as in torch's CrossEntropyLoss; multi-label targets become s / 2 and 1 - s / 2",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: weight the loss of each class by its inverse frequency"
    )
    clip_grad: float | None = Field(None, gt=0, description="clip the norm of the gradient to this value")
    sam: float = Field(
        0.0, ge=0, le=10, description="radius of sharpness-aware minimization, such as 0.05; doubles the cost; 0: off"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep an exponential moving average of the weights and evaluate that"
    )
    average: int = Field(
        0, ge=0, le=100, description="average the weights of the N best epochs, if that is better on validation"
    )
    refit: bool = Field(
        False, description="once the best epoch is known, train again on train and val for as many epochs"
    )
    tta: Literal["none", "flip"] = Field(
        "none", description="flip: average each prediction with that of the mirror image in the final evaluation"
    )

    @field_validator("teacher", mode="after")
    @classmethod
    def _teacher_below_home(cls, teacher: str | None) -> str | None:
        return None if teacher is None else str(user_path(teacher))

    @field_validator("batch_size", mode="before")
    @classmethod
    def _number_or_auto(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "auto" and not re.fullmatch(r"-?\d+", given.strip()):
            raise ValueError(f"batch_size = '{given}' is invalid; write a number, or auto")
        return given

    @model_validator(mode="after")
    def _warmup_within_the_run(self) -> OptimizationSettings:
        if self.head_epochs >= self.epochs:
            raise ValueError(
                f"head_epochs = {self.head_epochs} leaves none of epochs = {self.epochs} to train the entire model; "
                f"give at most {self.epochs - 1}, or use linear_probe"
            )
        left = self.epochs - self.head_epochs
        if "warmup_epochs" not in self.model_fields_set:
            usual = usual_warmup(left, head_first=self.head_epochs > 0)
            object.__setattr__(self, "warmup_epochs", usual)  # frozen; it must not count as given
        if self.warmup_epochs > left:
            available = "epochs" if not self.head_epochs else "epochs after head_epochs"
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} is more than {available}; the nearest valid value is {left}"
            )
        return self


class HardwareSettings(Settings):
    """Settings of the device and of its precision."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    gpus: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="train on N GPUs of this machine, one process each; with --device cpu on N CPU processes",
    )
    amp: bool = Field(False, description="train and evaluate in mixed precision")
    amp_dtype: Literal["bf16", "fp16"] = Field(
        "bf16", description="number format of mixed precision; fp16 also scales the loss (GradScaler)"
    )
    channels_last: bool = Field(True, description="store the model in the channels_last (NHWC) memory format")
    sync_bn: bool = Field(False, description="compute BatchNorm over the samples of all GPUs (SyncBatchNorm)")
    compile: Switch = Field("auto", description="compile the model with torch.compile; auto: on CUDA only")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = Field(
        "default", description="mode of torch.compile; reduce-overhead and max-autotune use CUDA graphs"
    )
    grad_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: needs less memory, takes longer"
    )
    seed: int = Field(
        42, ge=0, lt=2**63, description="seed of the order, the crops, the augmentation and the initial weights"
    )
    deterministic: bool = Field(False, description="make runs repeatable bit for bit; somewhat slower")


class RunSettings(Settings):
    """Settings of the run's folder, its checkpoints and its tracking."""

    out: Path = Field(Path("runs"), description="the folder in which the run's own folder is created")
    save_every: SaveEvery = Field(
        SaveEvery(seconds=600),
        description="save a checkpoint every N steps (500) or minutes (10min), in addition to one after each epoch; "
        "off: only after each epoch",
    )
    keep: int = Field(2, ge=1, le=1_000_000, description="number of checkpoints to keep; older ones are deleted")
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="cross-validation: train N models, each validated on another fold of train and val; to resume, "
        "give --resume their folder",
    )
    fold: Fold | None = Field(
        None, description="train one model of a cross-validation; 2/5: validate on the second of five folds"
    )
    profile: bool = Field(
        False, description="record a few steps of the first epoch in trace.json.gz, for https://ui.perfetto.dev"
    )
    explain: bool = Field(
        False,
        description="draw class-activation maps beside the report's mistakes; needs the extra explain and a "
        "convolutional model",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="format of the output; json: one object per line, for programs"
    )
    resume: str | None = Field(
        None,
        description="continue a run: its folder, one of its checkpoints, or auto for the newest unfinished in --out",
    )
    experiment: str = Field("fasttrain", min_length=1, description="name of the experiment in MLflow")
    run_name: str | None = Field(
        None, description="name of the run in MLflow and in its report; default: the name of its folder"
    )
    track: Trackers = Field(
        Trackers((MLFLOW,)),
        description="where the run is tracked: mlflow ($MLFLOW_TRACKING_URI, or a local SQLite file), wandb, "
        "tensorboard, several such as mlflow,wandb, or none",
    )

    @property
    def given_experiment(self) -> str | None:
        """Return the name of the MLflow experiment if the user gave one, otherwise None.

        If it is None, MLflow's environment variables decide.
        """
        return self.experiment if "experiment" in self.model_fields_set else None

    @field_validator("out", "resume", mode="after")
    @classmethod
    def _below_home(cls, given: str | Path | None) -> str | Path | None:
        return None if given is None else type(given)(user_path(given))


GROUPS: dict[str, type[Settings]] = {
    "Data": DataSettings,
    "Augmentation": AugmentationSettings,
    "Model": ModelSettings,
    "Optimisation": OptimizationSettings,
    "Machine": HardwareSettings,
    "The run": RunSettings,
}
"""The groups by title, in the order in which settings are shown and saved."""


def names_of(*groups: type[Settings]) -> set[str]:
    """Return the names of the settings in `groups`."""
    return {name for group in groups for name in group.model_fields}
