"""The plan of `--minutes` as a function of rates, sizes, counts and the budget; and its pace under a given clock."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from fasttrain.config.load import resolve
from fasttrain.config.values import Progressive
from fasttrain.errors import UserError
from fasttrain.training.pace import Pace, resumed_plan
from fasttrain.training.progressive import progressive_side, side_of_epoch
from fasttrain.training.time_plan import (
    Rates,
    TimePlan,
    Work,
    epoch_costs,
    make_time_plan,
    matching_share,
    sides_to_try,
)

# EfficientNet-Lite0 on two cores, batch 64, and 3,068 photographs of clothing.
RATES = Rates({96: 0.64, 192: 2.56}, evaluation=0.004, evaluated_side=160)
WORK = Work(steps=48, photographs=3068, test=372, validation=341, end=713, solved=3068, alone=True)
SIDES = range(32, 225, 32)
SPENT = 10.0


def plan_for(minutes: float, sizes: tuple[int, ...] = (160,), work: Work = WORK, **fixed) -> TimePlan:
    return make_time_plan(60 * minutes, SPENT, RATES, work, sizes, SIDES, **{"trained_share": 0.8, **fixed})


@pytest.mark.parametrize("sizes", [(160,), (224, 192, 160, 128)])
@pytest.mark.parametrize("minutes", [0.65, 0.8, 1, 1.3, 1.7, 2, 3, 4, 5, 7, 10, 15, 30, 60, 600])
def test_a_plan_fills_its_budget_and_never_exceeds_it(minutes, sizes):
    plan = plan_for(minutes, sizes)
    if plan.head == "alone":
        assert minutes < 2.5
        return
    assert SPENT + plan.seconds <= 60 * minutes and plan.head == "first"
    costs = epoch_costs(plan.line, plan.steps, plan.progressive, plan.image_size, plan.epochs)
    assert sum(costs[:-1]) <= plan.training <= sum(costs) and plan.epochs_that_fit >= 1
    unused = 60 * minutes - SPENT - plan.seconds
    assert unused <= 0.2 * max(costs) + plan.validation + 1e-6 or plan.epochs == 30


def test_more_time_means_more_epochs_then_larger_pictures():
    new = replace(WORK, solved=0, alone=False)
    begun = {minutes: plan_for(minutes, work=new) for minutes in (1.2, 2, 5)}
    assert begun[1.2].progressive == Progressive(96, 96) and begun[2].progressive == Progressive(96, 128)
    assert begun[5].progressive == Progressive(128, 128), "four fifths of what is evaluated"
    found = {minutes: plan_for(minutes) for minutes in (3, 5, 10, 60)}
    assert all(plan.head == "first" and plan.progressive == Progressive(128, 128) for plan in found.values())
    assert 2 <= found[3].epochs_that_fit < 3
    assert found[60].epochs == 30, "more epochs don't pay"
    free = {minutes: plan_for(minutes, (224, 192, 160, 128)) for minutes in (2, 5, 10, 60)}
    assert free[2].head == "alone" and free[2].image_size == 224, "large images rather than a few epochs on small ones"
    assert plan_for(2, (160, 128)).image_size == 160
    assert plan_for(2, (128,)).head == "first", "no greater size is at hand"
    behind = {minutes: plan_for(minutes, trained_share=1.0) for minutes in (2, 3, 5)}
    assert behind[2].head == "alone", "no time for an epoch"
    assert behind[5].progressive is None and behind[5].epochs_that_fit >= 2, "the evaluated size"
    assert behind[3].head == "first" and 1 <= behind[3].epochs_that_fit < 2
    only = make_time_plan(100, SPENT, RATES, WORK, (160,), (), trained_share=1.0)
    assert only.head == "alone", "the only size has no time for an epoch"
    sizes = [plan.image_size for minutes, plan in free.items() if minutes > 2]
    assert sizes == sorted(sizes) and sizes[-1] == 224
    assert free[60].progressive == Progressive(192, 192)


def test_early_blocks_are_frozen_unless_there_is_time_for_many_epochs():
    def freezing(minutes: float, share: float = 0.5, sizes: tuple[int, ...] = (160,), **fixed) -> TimePlan:
        rates = replace(RATES, early_blocks=6, frozen=share)
        return make_time_plan(60 * minutes, SPENT, rates, WORK, sizes, SIDES, **{"trained_share": 1.0, **fixed})

    short, usual, long = freezing(1.5), freezing(5), freezing(40)
    assert (short.head, short.freeze) == ("first", 6) and short.epochs_that_fit >= 1
    assert plan_for(1.5, trained_share=1.0).head == "alone", "and without freezing"
    assert usual.freeze == 6 and usual.epochs_that_fit > 1.9 * plan_for(5, trained_share=1.0).epochs_that_fit
    assert "epochs at 160 px with the first 6 blocks frozen (" in usual.line_of_choice()
    assert long.freeze == 0 and long.epochs_that_fit >= 12 and "frozen" not in long.line_of_choice()
    assert freezing(5, epochs=2).freeze == 0, "so many epochs fit without"
    assert freezing(5, epochs=4).freeze == 6, "only so do so many fit"
    larger = freezing(5, sizes=(224, 192, 160, 128)), plan_for(5, (224, 192, 160, 128), trained_share=1.0)
    assert larger[0].image_size > larger[1].image_size and larger[0].epochs_that_fit >= 4
    slow = replace(RATES, evaluation=0.05, early_blocks=6, frozen=0.5)
    late = make_time_plan(300, SPENT, slow, replace(WORK, alone=False), (160,), SIDES, trained_share=1.0)
    assert (late.head, late.freeze) == ("none", 0) and late.line == RATES.step_line(), "a random head needs the rest"
    unsolved = make_time_plan(300, SPENT, slow, replace(WORK, solved=0, alone=False), (160,), SIDES, trained_share=1.0)
    assert late == unsolved
    many = replace(WORK, photographs=10_000, steps=313, solved=10_000)
    rates = Rates({160: 1.92}, evaluation=0.02, evaluated_side=160)
    heads = {make_time_plan(each, SPENT, rates, many, (160,), (), trained_share=1.0).head for each in (440, 470, 480)}
    assert heads == {"alone"}, "rather than 200 steps from a random head"


def test_a_budget_too_small_for_training_leaves_the_head_alone_and_says_so():
    plan = plan_for(0.65)
    assert plan.head == "alone" and SPENT + plan.seconds <= 39
    assert "only the head" in plan.line_of_choice() and "no time to train the rest" in plan.line_of_choice()
    late = plan_for(0.1)
    assert late.head == "alone" and late.seconds > 6
    assert f"takes about {late.seconds:.0f} s, more than the budget" in late.line_of_choice()


def test_a_machine_too_slow_for_the_features_fits_the_head_late_rather_than_training_a_random_head():
    slow = Rates({96: 1.6, 128: 2.84}, evaluation=0.03, evaluated_side=160)
    plan = make_time_plan(120, SPENT, slow, WORK, (160,), SIDES, trained_share=0.8)
    assert plan.head == "alone" and SPENT + plan.seconds > 120 and "more than the budget" in plan.line_of_choice()
    many = replace(WORK, photographs=20_000, steps=312, solved=10_000)
    assert make_time_plan(120, SPENT, slow, many, (160,), SIDES, trained_share=0.8).head == "none", (
        "features would take ten minutes"
    )
    new = replace(WORK, solved=0, alone=False)
    unknown = make_time_plan(120, SPENT, slow, new, (160,), SIDES, trained_share=0.8)
    assert 20 / WORK.steps < unknown.epochs_that_fit < 1, "there is time for a part of an epoch"


def test_a_head_whose_features_take_most_of_the_time_is_fitted_alone_rather_than_a_random_one_trained():
    loading = Rates({96: 0.7, 160: 1.3}, evaluation=0.0215, evaluated_side=160)
    plan = make_time_plan(120, SPENT, loading, WORK, (160,), SIDES, trained_share=1.0)
    assert plan.head == "alone" and not plan.late


def test_a_head_that_cannot_be_alone_or_first():
    trained = plan_for(0.5, work=replace(WORK, alone=False))
    assert trained.head != "alone" and trained.epochs == 1 and trained.epochs_that_fit < 1
    own = plan_for(5, work=replace(WORK, solved=0, alone=False))
    assert own.head == "none" and own.head_seconds == 0
    assert own.training + own.epochs * own.validation > plan_for(5).training, "the time goes into training"
    many = replace(WORK, photographs=10**7, solved=10**4, steps=10**5)
    assert plan_for(10, work=many).head == "first" and plan_for(10, work=many).head_seconds < 70
    assert plan_for(10, work=many).training > 500, "a small part of an epoch, but many steps"


def test_what_the_user_set_is_kept_or_refused_in_one_line():
    assert plan_for(5, epochs=3).epochs == 3 and plan_for(5, epochs=3).epochs_that_fit == pytest.approx(3)
    assert plan_for(30, epochs=3).progressive == Progressive(128, 128)
    grown = plan_for(5, progressive=Progressive(64, 160))
    assert grown.progressive == Progressive(64, 160) and grown.epochs > 1
    with pytest.raises(
        UserError, match=r"^epochs = 40 takes about [\d.]+ minutes on this machine, which is more than minutes"
    ):
        plan_for(5, epochs=40)
    with pytest.raises(
        UserError, match=r"scheduler = 'plateau' follows the validation loss, and can't fit into minutes"
    ):
        resolve({"minutes": 2, "scheduler": "plateau"})
    with pytest.raises(UserError, match=r"refit = True can't be combined with minutes = 2, whose time is used up once"):
        resolve({"minutes": 2, "refit": True})
    with pytest.raises(UserError, match=r"eval_size = 224 can't be combined with minutes = 2, .*; give image_size"):
        resolve({"minutes": 2, "eval_size": 224})
    with pytest.raises(
        UserError, match=r"folds = 5 can't be combined with minutes = 2, which plans a single run; start"
    ):
        resolve({"minutes": 2, "folds": 5})
    assert resolve({"minutes": 2, "scheduler": "onecycle", "label_smoothing": 0.2}).label_smoothing == 0.2


def test_minutes_have_the_defaults_of_a_short_recipe_but_for_its_epochs():
    timed, fast = resolve({"minutes": 2}), resolve({"recipe": "fast"})
    assert (timed.label_smoothing, timed.crop_scale) == (fast.label_smoothing, fast.crop_scale)
    assert "epochs" not in timed.model_fields_set and "epochs" in fast.model_fields_set
    assert timed.compile == "off" and resolve({"minutes": 2, "compile": "on"}).compile == "on"
    accurate = resolve({"minutes": 2, "recipe": "accurate"})
    assert accurate.ema_decay and "epochs" not in accurate.model_fields_set and accurate.rand_augment is None
    assert resolve(timed.plain()) == timed


def test_pictures_grow_over_the_epochs_after_the_head():
    growing = {"head_epochs": 2, "epochs": 5, "progressive": "96:128"}
    timed, usual = resolve({"minutes": 2, **growing}), resolve(growing)
    assert [side_of_epoch(timed, each) for each in range(5)] == [96, 96, 96, 128, 128]
    assert [side_of_epoch(usual, each) for each in range(5)] == [96, 96, 128, 128, 128]


def test_sizes_that_the_model_does_not_take_are_not_trained_on():
    assert sides_to_try([224], (), 0.8, None, head_first=False) == {224}
    assert sides_to_try([160], SIDES, 1.0, None, head_first=False) == {96, 160}
    assert sides_to_try([160], SIDES, 0.8, None, head_first=False) == {96, 128}
    assert sides_to_try([160], SIDES, 0.8, None, head_first=True) == {128}, "no smaller ones after a fitted head"
    assert sides_to_try([224, 160], SIDES, 1.0, None, head_first=True) == {224, 160}
    plan = make_time_plan(600, SPENT, RATES, WORK, [224], (), trained_share=1.0)
    assert plan.progressive is None and plan.image_size == 224


def test_objects_look_as_large_in_training_as_in_evaluation():
    assert matching_share((0.08, 1.0), 0.875) == pytest.approx(0.84, abs=0.01)
    assert matching_share((0.35, 1.0), 0.875) == pytest.approx(0.94, abs=0.01)
    assert matching_share((0.08, 1.0), None) == pytest.approx(0.73, abs=0.01), "squash and letterbox crop nothing"
    assert matching_share((1.0, 1.0), 0.875) == 1.0
    trained = {
        crop_scale: plan_for(5, trained_share=matching_share(crop_scale, 0.875)).progressive
        for crop_scale in ((0.08, 1.0), (0.35, 1.0))
    }
    assert trained == {(0.08, 1.0): Progressive(128, 128), (0.35, 1.0): None}, "None: 160 px, the evaluated side"


def test_rates_between_and_beyond_the_measured_sides():
    base, per_pixel = RATES.step_line()
    assert base + per_pixel * 96**2 == pytest.approx(0.64) and base + per_pixel * 192**2 == pytest.approx(2.56)
    noisy = Rates({96: 1.0, 192: 0.9}, 0.01, 160)  # the larger one seems faster
    assert noisy.step_line() == (1.0, 0.0)
    loaded = Rates({96: 0.1, 192: 2.56}, 0.01, 160)
    assert loaded.step_line()[0] >= 0


def paced(plan: TimePlan, slower: float, from_step: int = 0) -> tuple[Pace, list[float], float]:
    """Run `plan` on a clock that is `slower` than planned from a step on. Return the pace, the progress and the end."""
    now, step, shares = SPENT + plan.head_seconds, 0, [0.0]
    pace = Pace(plan, 0.0)
    costs = epoch_costs(plan.line, plan.steps, plan.progressive, plan.image_size, plan.epochs)
    for epoch, cost in enumerate(costs):
        pace.begin_epoch()
        pace.look(step, now)
        for _ in range(plan.steps):
            if pace.done:
                break
            side = plan.image_size if plan.progressive is None else plan.progressive.last
            if plan.progressive is not None:
                side = progressive_side(plan.progressive, epoch, plan.epochs)
            shares.append(pace.after_step(side))
            step += 1
            now += cost / plan.steps * (slower if step > from_step else 1)
            if pace.due(step):
                pace.look(step, now)
        now += plan.validation
        if pace.done:
            break
    return pace, shares, now + plan.finish


@pytest.mark.parametrize("minutes", [3, 5, 10])
@pytest.mark.parametrize(("slower", "from_step"), [(1, 0), (1.02, 0), (1.5, 0), (4, 0), (2, 60), (0.7, 0)])
def test_the_pace_ends_in_time_at_the_end_of_its_schedule(minutes, slower, from_step):
    plan = plan_for(minutes)
    pace, shares, ended = paced(plan, slower, from_step)
    assert ended <= 60 * minutes * 1.03, "2 % are kept as a margin"
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1, abs=0.1)
    assert max(after - before for before, after in itertools.pairwise(shares)) < 0.15, "the rate never jumps"
    if slower == 1:
        assert not pace.decisions and pace.epochs_done == pytest.approx(plan.epochs_that_fit, abs=0.05)
    if slower >= 1.5:
        assert pace.decisions and pace.epochs_done < plan.epochs_that_fit and "were planned" in pace.summary()
    if slower < 1:
        assert pace.epochs_done >= plan.epochs_that_fit - 0.05


def test_a_pace_knows_the_part_of_the_last_epoch_that_there_is_time_for():
    plan = plan_for(5)
    pace, last = Pace(plan, 0.0), int(plan.epochs_that_fit)
    assert pace.share_of_epoch(0) == 1 and 0 < pace.share_of_epoch(last) < 1 and pace.share_of_epoch(last + 1) == 0
    assert last + pace.share_of_epoch(last) == pytest.approx(plan.epochs_that_fit)
    pace.look(0, 250.0)  # little time is left
    assert pace.share_of_epoch(0) < 1 and pace.share_of_epoch(1) == 0


def test_a_pace_continues_from_its_state_and_follows_other_minutes():
    plan = plan_for(5)
    config = resolve({"minutes": 5, "image_size": 160, "epochs": plan.epochs, "progressive": str(plan.progressive)})
    pace = Pace(plan, 0.0)
    pace.look(0, 150.0)  # late
    for _ in range(10):
        pace.after_step(128)
    state = pace.state_dict()
    assert resumed_plan(state, config, plan.steps) == plan
    again = Pace(resumed_plan(state, config, plan.steps), 0.0)
    again.load_state_dict(state)
    assert again.progress == pace.progress and again.decisions == pace.decisions != []
    assert again.after_step(128) == pace.after_step(128)
    half = resumed_plan(state, config, plan.steps // 2)  # twice the batch
    assert sum(epoch_costs(half.line, half.steps, half.progressive, 160, 1)) == pytest.approx(
        sum(epoch_costs(plan.line, plan.steps, plan.progressive, 160, 1))
    )
    more = Pace(replace(plan, budget=3000.0), 0.0)
    more.load_state_dict(state)
    before = more.progress
    more.look(20, 160.0)
    assert more.progress == before and not more.done and more.decisions[-1]["end"] > pace.decisions[-1]["end"]
    spent = Pace(plan, 0.0)
    spent.load_state_dict(state)
    spent.look(20, 301.0)
    assert spent.done and spent.progress == 1


@pytest.mark.parametrize(("head", "done"), [("first", True), ("none", False)])
def test_a_solved_head_is_enough_where_no_time_is_left(head, done):
    pace = Pace(replace(plan_for(5), head=head), 0.0)
    pace.look(0, 301.0)
    assert pace.done == done
    pace.after_step(128)
    assert pace.done, "else one step is made"


def stopped(plan: TimePlan, slower: float, stop: int | None) -> tuple[list[dict[str, float]], list[float]]:
    """Run `plan`, on a clock that begins elsewhere after the step `stop`. Return the decisions and the progress."""
    settings = {"epochs": plan.epochs, "warmup_epochs": 0, "progressive": str(plan.progressive)}
    config = resolve({"minutes": plan.budget / 60, "image_size": plan.image_size, **settings})
    cost = epoch_costs(plan.line, plan.steps, plan.progressive, plan.image_size, 1)[0] / plan.steps
    pace, now, began, spent = Pace(plan, 0.0), SPENT, 0.0, 0.0
    shares = []
    for step in range(plan.epochs * plan.steps):
        if step % plan.steps == 0:
            pace.begin_epoch()
            pace.look(step, spent + now - began)
        shares.append(pace.after_step(plan.progressive.last))
        now += slower * cost
        if pace.due(step + 1):
            pace.look(step + 1, spent + now - began)
        if pace.done:
            break
        if step + 1 == stop:
            spent += now - began
            state = pace.state_dict()
            pace = Pace(resumed_plan(state, config, plan.steps), 0.0)
            pace.load_state_dict(state)
            began = now = now + 12345.678
    return pace.decisions, shares


@pytest.mark.parametrize("slower", [0.8, 1.7, 3.3])
@pytest.mark.parametrize("stopped_at", [7, 61, 130])
def test_a_stop_in_mid_epoch_leads_to_the_same_decisions(slower, stopped_at):
    """Also on a clock that begins elsewhere, whose last bits are others."""
    alone = stopped(plan_for(5), slower, None)
    assert stopped(plan_for(5), slower, stopped_at) == alone
    assert alone[0] or slower < 1


@pytest.mark.parametrize("stopped_at", range(1, 6))
def test_a_decision_on_the_border_of_two_does_not_depend_on_the_last_bits_of_the_clock(stopped_at):
    work = Work(steps=12, photographs=96, test=0, validation=24, end=48, solved=96, alone=True)
    plan = make_time_plan(120, 0.0, Rates({32: 0.4, 64: 1.0}, 0.05, 64), work, [64], {32, 64}, trained_share=0.5)
    assert stopped(plan, 1.7, stopped_at) == stopped(plan, 1.7, None)


def test_a_head_alone_is_solved_for_at_the_greatest_size_that_fits():
    found = [plan_for(minutes, (224, 192, 160, 128)) for minutes in (0.5, 0.7, 1)]
    assert all(plan.head == "alone" for plan in found)
    sizes = [plan.image_size for plan in found]
    assert sizes == sorted(sizes) and sizes[0] == 128 < sizes[-1], sizes
