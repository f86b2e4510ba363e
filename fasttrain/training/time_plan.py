"""The plan of a run under `--minutes`: a pure function of measured rates, counts and the seconds left."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from fasttrain.config.values import Progressive
from fasttrain.errors import UserError
from fasttrain.text import counted
from fasttrain.training.progressive import progressive_side

_MOST_EPOCHS = 30
_ENOUGH = (4.0, 2.0, 1.5)  # epochs that suffice at the usual side, growing up to it, and at the small side
_ENOUGH_BEHIND_HEAD = 1.0  # epochs that suffice after a solved head, which stays if they end worse
_ENOUGH_UNFROZEN = 12.0  # epochs; with fewer, more epochs help more than training the early blocks
_LEAST_STEPS = 200  # this many steps are worthwhile even if they are a small part of an epoch
_FEWEST_STEPS = 20  # fewer don't improve the model
_LATEST = 2.5  # a share of the budget; later, a random head is trained for a part of an epoch after all
_LEAST_PART = 0.2  # a share of an epoch; a smaller part is not worth its validation
_STRIDE = 32
_SMALL_SHARE, _SMALLEST = 0.6, 96  # a share of the evaluated side, and px
_HEAD_SHARE = 0.5  # the greatest share of the time; nothing else raises the accuracy as fast
_SOLVE = 2e-3  # seconds per photograph for the first penalties; the others are left out if they take too long
_REPORT = 5.0  # seconds for figures, report and files
_MARGIN, _MOST_MARGIN = 0.02, 20.0  # a share of the budget, and seconds


@dataclass(frozen=True)
class Rates:
    """Seconds measured on this machine.

    `steps`: the seconds of a training step, with loading its data, by the image side in px; one or more sides.
    `evaluation`: the seconds that the evaluation of one photograph takes at `evaluated_side` px. `early_blocks`: how
    many of the model's first blocks a plan may freeze. `frozen`: the seconds of a step in which these are frozen, as a
    share of the seconds of a step in which they train.
    """

    steps: dict[int, float]
    evaluation: float
    evaluated_side: int
    early_blocks: int = 0
    frozen: float = 1.0

    def step_line(self) -> tuple[float, float]:
        """Return (a, b) such that a step takes a + b * side ** 2 seconds. Both are at least 0."""
        sides = sorted(self.steps)
        first, last = sides[0], sides[-1]
        if first == last:
            return 0.0, self.steps[first] / first**2
        slope = (self.steps[last] - self.steps[first]) / (last**2 - first**2)
        slope = min(max(slope, 0.0), self.steps[first] / first**2)
        return self.steps[first] - slope * first**2, slope

    def evaluate(self, side: int) -> float:
        """Return the seconds that the evaluation of one photograph takes at `side` px."""
        return self.evaluation * (side / self.evaluated_side) ** 2


@dataclass(frozen=True)
class Work:
    """The amount of work in a run.

    `steps`: optimizer steps per epoch. `photographs`, `test`: the sizes of the training and the test split.
    `validation`: the number of photographs that one rank evaluates after each epoch. `end`: the number that one rank
    evaluates at the end of the run. `solved`: the number of training photographs on whose features the head can be
    fitted before everything trains, or 0 if that is not possible. `alone`: whether a plan may fit only the head, on all
    photographs.
    """

    steps: int
    photographs: int
    test: int
    validation: int
    end: int
    solved: int
    alone: bool


@dataclass(frozen=True)
class TimePlan:
    """The choices for a run, and the seconds that they should take.

    `budget`: the seconds that the user gave. `image_size`: the side in px for evaluation and, without `progressive`,
    for training. `head`: "first" (fit the classifier, then train everything), "alone" (fit only the classifier) or
    "none" (train everything from the start). `training`: the seconds of all steps; the last epoch may end early.
    `line`: a step takes `line[0] + line[1] * side ** 2` seconds. `steps`: steps per epoch. `head_seconds`: the seconds
    for fitting the head. `validation`: the seconds of one validation. `finish`: the seconds reserved for the end.
    `freeze`: how many blocks stay frozen to save time. `late`: whether a head alone takes longer than the budget.
    """

    budget: float
    image_size: int
    progressive: Progressive | None
    epochs: int
    head: str
    training: float
    line: tuple[float, float]
    steps: int
    head_seconds: float
    validation: float
    finish: float
    freeze: int = 0
    late: bool = False

    @property
    def epochs_that_fit(self) -> float:
        """Return how many epochs fit into `training`. The last one may be partial."""
        done, left = 0, self.training
        for cost in epoch_costs(self.line, self.steps, self.progressive, self.image_size, self.epochs):
            if left < cost:
                return done + left / cost
            done, left = done + 1, left - cost
        return float(done)

    @property
    def seconds(self) -> float:
        """Return the seconds from now to the end of the run."""
        return self.head_seconds + self.training + self.epochs * self.validation + self.finish

    def line_of_choice(self) -> str:
        """Return a line to print that describes the plan."""
        minutes = f"minutes: {self.budget / 60:g}"
        if self.head == "alone":
            late = f"it takes about {self.seconds:.0f} s, more than the budget"
            why = late if self.late else "no time to train the rest"
            return f"{minutes}; only the head, fitted on frozen features at {self.image_size} px: {why}"
        head = f"the head is fitted first ({self.head_seconds:.0f} s), then " if self.head == "first" else ""
        growing = self.progressive
        constant = growing is not None and growing.first == growing.last
        shown = growing.last if growing and constant else growing or self.image_size
        frozen = f" with the first {counted(self.freeze, 'block')} frozen" if self.freeze else ""
        return (
            f"{minutes}; {head}{self.epochs_that_fit:.3g} epochs at {shown} px{frozen} ({self.training:.0f} s), "
            f"evaluated at {self.image_size} px; {self.finish:.0f} s kept for the end"
        )


def epoch_costs(
    line: tuple[float, float], steps: int, progressive: Progressive | None, image_size: int, epochs: int
) -> list[float]:
    """Return the planned seconds of the training steps of each epoch.

    `line` is as in `TimePlan`. `steps` is the number of steps per epoch. Images have `image_size` px if `progressive`
    is None; otherwise their sizes are those of `progressive`.
    """
    sides = [progressive_side(progressive, each, epochs) if progressive else image_size for each in range(epochs)]
    return [steps * (line[0] + line[1] * side**2) for side in sides]


def make_time_plan(
    budget: float,
    spent: float,
    rates: Rates,
    work: Work,
    sizes: Sequence[int],
    sides: Collection[int],
    *,
    trained_share: float,
    progressive: Progressive | None = None,
    epochs: int | None = None,
) -> TimePlan:
    """Return the plan for the rest of `budget` seconds after `spent` seconds.

    `sizes`: sides in px for evaluation, the greatest first. `sides`: other sides that the model can train on.
    `trained_share`: the training side as a share of the evaluated one (see `matching_share`). `progressive` and
    `epochs` are the user's; None if the plan may choose them.

    The plan has the greatest size that leaves time for enough epochs. If no size does, it has the smallest size, and
    without a fitted head it trains on smaller images. After a fitted head the early blocks stay frozen, unless there is
    time for many epochs without.

    If `work.alone` is set, the plan may only fit the head, at the greatest size that has time for all photographs. It
    does so if fewer than four epochs would train from a random head or on smaller images than these. It also does so if
    there is time for less than an epoch and fewer than 200 steps.

    Raises UserError if `epochs` is given and so many epochs don't fit.
    """
    left = budget - spent
    tried = [
        (size, growing, freeze, enough)
        for size in sizes
        for growing, freeze, enough in _rungs(
            list(_ladder(size, sides, trained_share, progressive)),
            rates.early_blocks,
            head_first=_head_fits(left, rates, work, size),
            smallest=size == sizes[-1],
        )
    ]
    heads = [_head_alone(budget, spent, size, rates, work) for size in sizes] if work.alone else []
    fitting = [each for each in heads if not each.late]
    for size, growing, freeze, enough in tried:
        plan = _fitted(budget, left, rates, work, size, growing, freeze, epochs)
        if epochs is not None and plan.epochs_that_fit >= epochs * (1 - 1e-9):
            return plan
        if epochs is None and plan.epochs_that_fit >= enough:
            # A head alone is better than a few epochs from a random one. On large images it is better than a few epochs
            # on small ones (87.6 % at 192 px against 81.7 % with two at 96 px, evaluated at 128 px, in two minutes).
            few = plan.epochs_that_fit < _ENOUGH[0]
            better = fitting and (plan.head == "none" or fitting[0].image_size > size)
            return fitting[0] if few and better else plan
    many = plan.epochs_that_fit * plan.steps >= _LEAST_STEPS and not (fitting and plan.head == "none")
    if many and epochs is None:
        return plan
    if epochs is not None:
        costs = epoch_costs(plan.line, plan.steps, plan.progressive, plan.image_size, epochs)
        needed = spent + plan.head_seconds + sum(costs) + epochs * plan.validation + plan.finish
        raise UserError(
            f"epochs = {epochs} takes about {math.ceil(needed / 6) / 10:g} minutes on this machine, which is more than "
            f"minutes = {budget / 60:g}; give more --minutes, or leave --epochs out"
        )
    if fitting or not heads:
        return fitting[0] if fitting else plan
    few = plan.epochs_that_fit * plan.steps < _FEWEST_STEPS
    # On a slow machine not even the features fit. A head on late features is better than a random head that has trained
    # for a part of an epoch (87 % against 24 % in a run of two minutes).
    soon = plan.head == "none" and spent + heads[-1].seconds <= _LATEST * budget
    return heads[-1] if few or soon else plan


def matching_share(crop_scale: tuple[float, float], crop_pct: float | None) -> float:
    """Return the training side at which objects look as large as in evaluation, as a share of the evaluated side.

    A random crop shows a part of the photograph and so enlarges its objects (FixRes, Touvron et al. 2019).
    `crop_scale`: least and greatest area of the crop, as shares of the photograph. `crop_pct`: side of the centre crop
    in evaluation, as a share of the photograph's short side; None if evaluation crops nothing. The result is at most 1.
    """
    return min(math.sqrt(sum(crop_scale) / 2) / (crop_pct or 1.0), 1.0)


def sides_to_try(
    sizes: Sequence[int],
    sides: Collection[int],
    trained_share: float,
    progressive: Progressive | None,
    *,
    head_first: bool,
) -> set[int]:
    """Return the sides in px that a plan may train on. `head_first`: whether the plan may fit the head first.

    The other arguments are those of `make_time_plan`.
    """
    tried = set()
    for size in sizes:
        ladder = _ladder(size, sides, trained_share, progressive)
        for growing in islice(ladder, 1 if head_first else None):
            tried |= {growing.first, growing.last} if growing else {size}
    return tried


def _rungs(
    ladder: list[Progressive | None], early_blocks: int, *, head_first: bool, smallest: bool
) -> list[tuple[Progressive | None, int, float]]:
    """Return triples to try at one size, in this order: training sides, frozen blocks, and the epochs that suffice.

    `ladder`: the training sides of `_ladder`. `early_blocks`: how many blocks may be frozen. `head_first`: whether the
    head is fitted first. `smallest`: whether no smaller size is left to try.
    """
    best = ladder[0]
    if head_first:
        few = _ENOUGH_BEHIND_HEAD if smallest else _ENOUGH[0]
        return [(best, 0, _ENOUGH_UNFROZEN), (best, early_blocks, few)] if early_blocks else [(best, 0, few)]
    if not smallest:
        return [(best, 0, _ENOUGH[0])]
    enough_of = _ENOUGH[-1:] if len(ladder) == 1 else _ENOUGH
    return [(each, 0, enough) for each, enough in zip(ladder, enough_of, strict=False)]


def _ladder(
    size: int, sides: Collection[int], trained_share: float, progressive: Progressive | None
) -> Iterator[Progressive | None]:
    """Yield the training sides to try for the evaluated `size`, the best first. None stands for `size` itself."""
    if progressive is not None:
        yield progressive
        return
    last = max(round(size * trained_share / _STRIDE), 1) * _STRIDE
    small = max(round(size * _SMALL_SHARE / _STRIDE) * _STRIDE, min(last, _SMALLEST))
    if last > size or last not in sides:
        yield None
        return
    yield Progressive(last, last) if last < size else None
    if small < last and small in sides:
        yield Progressive(small, last)
        yield Progressive(small, small)


def _fitted(
    budget: float,
    left: float,
    rates: Rates,
    work: Work,
    size: int,
    progressive: Progressive | None,
    freeze: int,
    epochs: int | None,
) -> TimePlan:
    """Return the plan with `epochs`, or with as many epochs as fit if that is None.

    `left`: the seconds that are left of `budget`. `size`: the evaluated side in px. `progressive`: the training sides;
    None stands for `size`. `freeze`: the number of frozen blocks, 0 or `rates.early_blocks`.
    """
    base, per_pixel = rates.step_line()
    share = rates.frozen if freeze else 1.0
    line = share * base, share * per_pixel
    validation = work.validation * rates.evaluate(size)
    finish = _REPORT + work.end * rates.evaluate(size) + min(_MARGIN * budget, _MOST_MARGIN)
    head = "first" if _head_fits(left, rates, work, size) else "none"
    head_seconds = _head_seconds(rates, work, size) if head == "first" else 0.0
    available = left - head_seconds - finish

    def with_epochs(count: int) -> TimePlan:
        most = sum(epoch_costs(line, work.steps, progressive, size, count))
        training = max(min(most, available - count * validation), 0.0)
        return TimePlan(
            budget, size, progressive, count, head, training, line, work.steps, head_seconds, validation, finish, freeze
        )

    if epochs is not None:
        return with_epochs(epochs)
    best = with_epochs(1)
    for count in range(2, _MOST_EPOCHS + 1):
        plan = with_epochs(count)
        if plan.epochs_that_fit < count - 1 + _LEAST_PART:
            break
        best = plan
    return best


def _head_alone(budget: float, spent: float, size: int, rates: Rates, work: Work) -> TimePlan:
    """Return a plan that only fits the head, on the features of all photographs at `size` px."""
    features = (work.photographs + work.validation + work.test) * rates.evaluate(size)
    head_seconds = features + work.photographs * _SOLVE
    return TimePlan(
        budget=budget,
        image_size=size,
        progressive=None,
        epochs=1,
        head="alone",
        training=0.0,
        line=rates.step_line(),
        steps=work.steps,
        head_seconds=head_seconds,
        validation=0.0,
        finish=_REPORT,
        late=spent + head_seconds + _REPORT > budget,
    )


def _head_fits(left: float, rates: Rates, work: Work, size: int) -> bool:
    """Return whether the head can be fitted at `size` px in at most half of the `left` seconds."""
    return work.solved > 0 and _head_seconds(rates, work, size) <= _HEAD_SHARE * left


def _head_seconds(rates: Rates, work: Work, size: int) -> float:
    """Return the seconds that it takes to compute features at `size` px and to fit the head on them."""
    return (work.solved + work.validation) * rates.evaluate(size) + work.solved * _SOLVE
