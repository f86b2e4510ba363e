"""Groups of the settings of a training run: each has its fields, with type, range, default and one line of help.

`config.schema.TrainConfig` inherits from all groups, so a function that needs one of them can ask for just that one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from fasttrain.config.geometry import CROP_PCT, Geometry, ResizeMode
from fasttrain.config.location import parse_location, user_path
from fasttrain.config.model_name import is_object, model_name
from fasttrain.config.monitor import MonitorName
from fasttrain.config.trackers import MLFLOW, Trackers
from fasttrain.config.values import CacheSize, Fold, Progressive, RandAugment, SaveEvery

Share = Annotated[float, Field(gt=0, le=1)]
Switch = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(lambda given: {True: "on", False: "off"}[given] if isinstance(given, bool) else given),
]


class Settings(BaseModel):
    """Base of the groups: settings can't be changed, and unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that don't have their default."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]


class DataSettings(Settings):
    """Photographs, and how they are read and cropped."""

    data: str | Path = Field(
        Path("shards"),
        description="shards made by `convert` (a folder, s3://, gs://, https://), or class folders; a folder "
        "with one data set in it means that one",
    )
    cache_size: CacheSize | None = Field(
        None, description="50GB: most that shards fetched from a URL may take; default: all but 5 GB of the disk"
    )
    loader: str = Field("auto", description="auto, or the name of a loader (`fasttrain doctor` lists them)")
    workers: int | None = Field(None, ge=0, le=512, description="loader processes or threads; default: one a core")
    shuffle: Literal["full", "shards"] = Field(
        "full", description="shards: mix a few shards at a time, for data larger than memory"
    )
    sampling: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class comes equally often in training; an epoch stays as long"
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        "error", description="skip: leave out samples that have changed or don't decode, at most 1 % of an epoch"
    )
    image_size: int = Field(
        224,
        ge=16,
        le=2048,
        description="side of the square the model sees, px; if not given, the model's own where it is not made for 224",
    )
    eval_size: int | None = Field(
        None, ge=16, le=2048, description="side of the square that evaluation and export see, px; default: --image-size"
    )
    crop_pct: Share = Field(CROP_PCT, description="evaluation: the centre crop's share of the short side")
    resize_mode: ResizeMode = Field(
        "crop",
        description="evaluation: crop the centre, or take the entire photograph: squash (to a square) or letterbox",
    )
    crop_scale: tuple[Share, Share] = Field(
        (0.08, 1.0), description="RandomResizedCrop: least and greatest share of the area"
    )
    interpolation: Literal["bilinear", "bicubic", "auto"] = Field(
        "bilinear", description="filter that resizes photographs, in evaluation too; auto: the pretrained weights' own"
    )
    hflip: float = Field(
        0.5, ge=0, le=1, description="probability of a horizontal flip; 0 for letters, signs, left and right hands"
    )
    vflip: float = Field(
        0.0, ge=0, le=1, description="probability of a vertical flip, for pictures without an up: aerial, microscopy"
    )
    progressive: Progressive | None = Field(
        None, description="train on growing pictures, as 128:224 px; evaluation keeps its size"
    )
    limit_batches: int | None = Field(None, ge=1, description="at most this many batches a pass (for trying out)")

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
                f"crop_pct = {self.crop_pct:g} does not go with resize_mode = '{self.resize_mode}', which crops "
                "nothing; leave one of them out"
            )
        return self

    @property
    def geometry(self) -> Geometry:
        """The geometry of evaluation. An `interpolation` of "auto" must have been resolved."""
        assert self.interpolation != "auto"
        return Geometry(self.eval_size or self.image_size, self.crop_pct, self.resize_mode, self.interpolation)


class AugmentationSettings(Settings):
    """Augmentation on the device, after the loader's crop and flip."""

    color_jitter: float = Field(
        0.0, ge=0, le=1, description="ColorJitter: greatest change of brightness, contrast and saturation"
    )
    rand_augment: RandAugment | None = Field(
        None, description="RandAugment, as n2-m9: 2 operations a photograph at magnitude 9 of 10"
    )
    trivial_augment: bool = Field(
        False,
        description="TrivialAugmentWide: one operation a photograph, at a random magnitude; not with --rand-augment",
    )
    random_erasing: float = Field(0.0, ge=0, le=1, description="probability of random erasing")
    mixup: float = Field(0.0, ge=0, le=100, description="Mixup's alpha; 0: off")
    cutmix: float = Field(
        0.0, ge=0, le=100, description="CutMix's alpha; 0: off; with --mixup each batch gets one of them"
    )

    @model_validator(mode="after")
    def _one_policy(self) -> AugmentationSettings:
        if self.trivial_augment and self.rand_augment is not None:
            raise ValueError(
                f"trivial_augment does not go with rand_augment = {self.rand_augment}; leave one of them out"
            )
        return self


class ModelSettings(Settings):
    """The model, and the weights that it starts from."""

    model: str = Field(
        "mobilenetv2_100",
        description="any name timm knows (`fasttrain models` lists them); hf-hub:OWNER/NAME; "
        "package.module:function of your own",
    )
    pretrained: bool = Field(True, description="start from timm's ImageNet weights")
    weights: Path | None = Field(
        None, description="start from this instead: a state_dict or checkpoint of any trainer, or a run folder"
    )
    freeze: int = Field(0, ge=0, description="freeze the first N blocks (the stem is the first)")
    freeze_bn: Switch = Field(
        "auto", description="BatchNorm keeps the running statistics it begins with; auto: behind head_epochs"
    )
    linear_probe: bool = Field(
        False, description="solve for the head alone, on cached features; each epoch tries one L2 penalty"
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout before the classifier")
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="stochastic depth: probability of leaving out the last block; the others' grow to it",
    )

    @field_validator("model", mode="before")
    @classmethod
    def _name(cls, model: Any) -> str:
        name = model_name(model)
        if is_object(name) and not isinstance(model, str):
            raise ValueError(f"model = {name} can't be imported; give a function of a module, or call train(model=…)")
        return name

    @field_validator("weights", mode="after")
    @classmethod
    def _weights_below_home(cls, weights: Path | None) -> Path | None:
        return None if weights is None else user_path(weights)


class OptimizationSettings(Settings):
    """Batches, optimizer, schedule and loss."""

    recipe: Literal["fast", "accurate", "classic"] | None = Field(
        None, description="other defaults for the settings below: fast, accurate or classic"
    )
    epochs: int = Field(10, ge=1, le=100_000, description="passes over the training photographs")
    minutes: float | None = Field(
        None, gt=0, le=1_000_000, description="the best model in so much time: chooses epochs and sizes on this machine"
    )
    head_epochs: int = Field(
        0, ge=0, description="the first N epochs train the classifier alone, on cached features where they can"
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        64, description="photographs a batch, of each rank under torchrun; auto: a GPU's fastest, a CPU's largest"
    )
    grad_accumulation: int = Field(1, ge=1, le=65_536, description="batches whose gradients make one step")
    optimizer: str = Field("adamw", description="adamw, adam, sgd, or any name timm knows")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="greatest learning rate")
    weight_decay: float = Field(1e-4, ge=0, le=10, description="not applied to norms and biases")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="each block from the head down learns at this share of the rate of the one above"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of optimizers that have one")
    scheduler: Literal["plateau", "cosine", "onecycle", "constant"] = Field(
        "cosine", description="cosine, plateau, onecycle or constant"
    )
    warmup_epochs: float = Field(0.5, ge=0, description="linear warm-up; cosine only")
    patience: int = Field(2, ge=0, description="plateau: epochs without improvement before the rate drops")
    factor: float = Field(0.1, gt=0, lt=1, description="plateau: what the rate is multiplied by")
    monitor: MonitorName = Field(
        "val_loss",
        description="val_loss, top1, macro_f1, or map for sets of classes: it chooses the best epoch and counts for "
        "early stopping and plateau; auto: top1 or map",
    )
    early_stopping: int = Field(5, ge=0, description="stop after N epochs without improvement; 0: never")
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="focal: what is classified well counts less; validation stays cross-entropy"
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="focal: how much less; 0 is cross-entropy")
    teacher: str | None = Field(
        None,
        description="learn the probabilities of this: a run folder, a checkpoint, or a timm model of these classes",
    )
    teacher_temperature: float = Field(1.0, gt=0, le=100, description="above 1: softer probabilities of both")
    teacher_weight: float = Field(
        1.0, gt=0, le=1, description="the teacher's share of the loss, the rest is the labels'; 1: the teacher alone"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="CrossEntropyLoss's label_smoothing; of sets of classes, s / 2 and 1 - s / 2 as targets",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: weigh classes by their inverse frequency"
    )
    clip_grad: float | None = Field(None, gt=0, description="clip the gradient's norm to this")
    sam: float = Field(
        0.0, ge=0, le=10, description="SAM's radius, as 0.05: seek flat minima, at twice the cost of a step; 0: off"
    )
    ema_decay: float | None = Field(None, gt=0, lt=1, description="keep and evaluate timm's model EMA, warmed up")
    average: int = Field(
        0, ge=0, le=100, description="average the weights of the N best epochs, where that is better on validation"
    )
    refit: bool = Field(
        False, description="train once more on train and val, for as many epochs as the best one; test evaluates it"
    )
    tta: Literal["none", "flip"] = Field("none", description="flip: the last evaluation sees mirror images too")

    @field_validator("teacher", mode="after")
    @classmethod
    def _teacher_below_home(cls, teacher: str | None) -> str | None:
        return None if teacher is None else str(user_path(teacher))

    @field_validator("batch_size", mode="before")
    @classmethod
    def _number_or_auto(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "auto" and not re.fullmatch(r"-?\d+", given.strip()):
            raise ValueError(f"batch_size = '{given}' is not understood; write a number, or auto")
        return given

    @model_validator(mode="after")
    def _warmup_within_the_run(self) -> OptimizationSettings:
        if self.head_epochs >= self.epochs:
            raise ValueError(
                f"head_epochs = {self.head_epochs} leaves none of epochs = {self.epochs} to train everything; give at "
                f"most {self.epochs - 1}, or use linear_probe"
            )
        left = self.epochs - self.head_epochs
        if self.warmup_epochs > left:
            named = "epochs" if not self.head_epochs else "epochs after the head's"
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} is more than {named}; the nearest valid one is {left}"
            )
        return self


class HardwareSettings(Settings):
    """The device, and how it computes."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    gpus: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="train on N GPUs of this machine, a process each; CPU processes with --device cpu",
    )
    amp: bool = Field(False, description="mixed precision")
    amp_dtype: Literal["bf16", "fp16"] = Field("bf16", description="fp16 adds a GradScaler")
    channels_last: bool = Field(True, description="NHWC memory format for the model")
    sync_bn: bool = Field(False, description="BatchNorm over the samples of all ranks (several GPUs)")
    compile: Switch = Field("auto", description="torch.compile: auto (on CUDA), on or off")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = Field(
        "default", description="torch.compile's mode; reduce-overhead takes CUDA graphs"
    )
    grad_checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory")
    seed: int = Field(42, ge=0, lt=2**63, description="seeds the plan, torch, numpy and random")
    deterministic: bool = Field(False, description="bit for bit repeatable, somewhat slower")


class RunSettings(Settings):
    """The run's folder, its checkpoints and what is tracked."""

    out: Path = Field(Path("runs"), description="where the run's folder is made")
    save_every: SaveEvery = Field(
        SaveEvery(seconds=600),
        description="a checkpoint each N steps (500) or minutes (10min) besides one an epoch; off: none",
    )
    keep: int = Field(2, ge=1, le=1_000_000, description="how many checkpoints stay, the newest ones")
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="train N models, each validated on one fold of train and val; --resume takes their folder",
    )
    fold: Fold | None = Field(None, description="2/5: validate on the second of five folds, train on the others")
    profile: bool = Field(
        False, description="write trace.json.gz: a few steps of the first epoch, for https://ui.perfetto.dev"
    )
    explain: bool = Field(
        False, description="the report's mistakes show what spoke for them; extra explain, convolutional models"
    )
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, for machines")
    resume: str | None = Field(None, description="auto (the newest unfinished run in --out), or a checkpoint")
    experiment: str = Field("fasttrain", min_length=1, description="MLflow's experiment")
    run_name: str | None = Field(None, description="name in MLflow and title of the report; default: the run folder's")
    track: Trackers = Field(
        Trackers((MLFLOW,)),
        description="mlflow ($MLFLOW_TRACKING_URI, else a local SQLite file), wandb, tensorboard, several as "
        "mlflow,wandb, or none",
    )

    @property
    def given_experiment(self) -> str | None:
        """The experiment if it was given. None leaves the choice to MLflow's variables."""
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
"""Each group by its title, in the order in which settings are shown and saved."""


def names_of(*groups: type[Settings]) -> set[str]:
    """Return the names of the settings in `groups`."""
    return {name for group in groups for name in group.model_fields}
