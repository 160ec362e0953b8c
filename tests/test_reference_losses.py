"""The reference losses against other libraries and against numbers worked out by hand."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import reference_losses as ref
import torch
from torch import Tensor
from torch.nn import functional as F

VOID = 255
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0, 1.5], dtype=torch.float64)


@pytest.fixture(scope="module")
def smp() -> Any:
    """The losses of segmentation_models_pytorch, if it is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their imports, no business of ours
        return pytest.importorskip("segmentation_models_pytorch.losses")


@pytest.fixture(scope="module")
def monai() -> Any:
    """The losses of MONAI, if it is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.losses")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Five classes, each in the batch but not each in every image, and some void."""
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, dtype=torch.float64) * 2
    target = torch.randint(0, 5, (2, 4, 6))
    target[1][target[1] == 3] = 0
    target[0, 0, :3] = VOID
    assert (target == 3).any()
    return logits.requires_grad_(), target


def constant(p: list[float], height: int, width: int, n: int = 1) -> Tensor:
    """Logits of the same probabilities everywhere."""
    return (
        torch.tensor(p, dtype=torch.float64).log()[None, :, None, None].expand(n, -1, height, width)
    )


def perfect(target: Tensor, classes: int) -> Tensor:
    return F.one_hot(target, classes).permute(0, 3, 1, 2).double() * 1000


def assert_same(mine: Tensor, theirs: Tensor, logits: Tensor, rel: float = 1e-9) -> None:
    """The same value and gradient."""
    assert mine.dtype == torch.float64
    assert mine.item() == pytest.approx(theirs.item(), rel=rel)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (mine, theirs)]
    assert gradients[0].abs().max() > 0
    assert (gradients[0] - gradients[1]).abs().max() <= 10 * rel * gradients[0].abs().max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(
    batch: tuple[Tensor, Tensor], weights: Tensor | None, smoothing: float
) -> None:
    logits, target = batch
    theirs = F.cross_entropy(logits, target, weights, ignore_index=VOID, label_smoothing=smoothing)
    mine = ref.cross_entropy(logits, target, class_weights=weights, label_smoothing=smoothing)
    assert_same(mine, theirs, logits)


def test_cross_entropy_of_everything_is_both_ohem_forms(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    full = ref.cross_entropy(logits, target, class_weights=WEIGHTS)
    for loss in (
        ref.ohem_fraction(logits, target, fraction=1.0, class_weights=WEIGHTS),
        ref.ohem_threshold(logits, target, threshold=1.1, min_kept=0, class_weights=WEIGHTS),
        ref.ohem_threshold(logits, target, threshold=0.0, min_kept=999, class_weights=WEIGHTS),
        ref.focal(logits, target, gamma=0.0, class_weights=WEIGHTS),
    ):
        assert_same(loss, full, logits)


def test_ohem_by_hand() -> None:
    """Four pixels of class 0 with probability 0.9, 0.6, 0.3, 0.1, and a hard one that is void."""
    p = torch.tensor([0.9, 0.6, 0.3, 0.1, 0.01], dtype=torch.float64)
    logits = torch.stack([p, 1 - p]).log()[None, :, None]
    target = torch.tensor([[[0, 0, 0, 0, VOID]]])
    hardest = -p.log()
    fraction = partial(ref.ohem_fraction, logits, target)
    assert fraction(fraction=0.5).item() == pytest.approx(hardest[2:4].mean().item())
    assert fraction(fraction=0.7).item() == pytest.approx(hardest[2:4].mean().item())
    assert fraction(fraction=0.01).item() == pytest.approx(hardest[3].item())
    threshold = partial(ref.ohem_threshold, logits, target)
    assert threshold(threshold=0.7, min_kept=1).item() == pytest.approx(hardest[1:4].mean().item())
    assert threshold(threshold=0.2, min_kept=2).item() == pytest.approx(hardest[2:4].mean().item())
    assert threshold(threshold=0.05, min_kept=0).item() == 0


def test_ohem_chooses_by_probability_and_averages_by_weight() -> None:
    """True-class probabilities 0.5, 0.25, 0.8: the hard two have weights 1 and 3."""
    logits = torch.tensor([[0.5, 0.75, 0.2], [0.5, 0.25, 0.8]]).double().log()[None, :, None]
    target = torch.tensor([[[0, 1, 1]]])
    loss = ref.ohem_fraction(logits, target, fraction=0.67, class_weights=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((0.693147 + 3 * 1.386294) / 4, abs=1e-6)


def test_focal_by_hand() -> None:
    """(1 - p)^2 (-ln p) at p = 0.9 is 0.00105361 and at 0.5 is 0.17328680; weights 1 and 3."""
    logits = torch.tensor([[0.9, 0.5], [0.1, 0.5]]).double().log()[None, :, None]
    target = torch.tensor([[[0, 1]]])
    assert ref.focal(logits, target).item() == pytest.approx((0.00105361 + 0.17328680) / 2)
    weighted = ref.focal(logits, target, class_weights=torch.tensor([1.0, 3.0]))
    assert weighted.item() == pytest.approx((0.00105361 + 3 * 0.17328680) / 4)


def test_focal_is_smps_softmax_form(smp: Any, batch: tuple[Tensor, Tensor]) -> None:
    # smp's FocalLoss is no reference: its multiclass mode is a sigmoid for each class. The softmax
    # form is a function it does not use, which knows neither void pixels nor class weights.
    logits, target = batch
    target = target.where(target != VOID, 0)
    theirs = smp._functional.softmax_focal_loss_with_logits(logits, target, gamma=1.5)
    assert_same(ref.focal(logits, target, gamma=1.5), theirs, logits, rel=1e-7)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_regions_are_smps(smp: Any, batch: tuple[Tensor, Tensor], weights: Tensor | None) -> None:
    # Every class is present: smp counts an absent one as a loss of 0 in the mean over all classes,
    # which makes its losses smaller the fewer classes there are. Its smooth in Dice stands beside
    # I, not 2 I, so it is half of ours. It keeps the weights as float32, here exact.
    logits, target = batch
    options = {
        "mode": "multiclass",
        "ignore_index": VOID,
        "class_weights": None if weights is None else weights.tolist(),
    }
    for mine, theirs in (
        (ref.dice, smp.DiceLoss(**options)),
        (partial(ref.dice, smooth=2.0), smp.DiceLoss(**options, smooth=1.0)),
        (ref.iou, smp.JaccardLoss(**options)),
        (partial(ref.iou, smooth=1.0), smp.JaccardLoss(**options, smooth=1.0)),
        (
            partial(ref.tversky, alpha=0.3, beta=0.7, smooth=1.0),
            smp.TverskyLoss(**options, alpha=0.3, beta=0.7, smooth=1.0),
        ),
    ):
        loss = mine(logits, target, class_weights=weights)
        # Its gradient is that of an L1 norm, the same off the corners; checked by value and slope.
        assert_same(loss, theirs(logits, target), logits, rel=1e-6)


def test_absent_classes_divide_smps_mean_too(smp: Any, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    target = target.where(target < 3, 0)
    theirs = smp.DiceLoss("multiclass")(logits, target)
    assert_same(ref.dice(logits, target) * 3 / 5, theirs, logits, rel=1e-6)


@pytest.mark.parametrize("squared", [False, True])
def test_dice_is_monais(monai: Any, batch: tuple[Tensor, Tensor], squared: bool) -> None:
    # monai counts absent classes, at 1 - s / (P + s), so each image must hold every class for its
    # per-image form; class weights multiply without being divided by their sum.
    logits, target = batch
    target = target.where(target != VOID, 0)
    target[:, 0, :5] = torch.arange(5)
    for per_image in (False, True):
        for jaccard, mine in ((False, ref.dice), (True, ref.iou)):
            if squared and jaccard:
                continue  # ours has no squared IoU
            theirs = monai.DiceLoss(
                softmax=True,
                to_onehot_y=True,
                batch=not per_image,
                squared_pred=squared,
                jaccard=jaccard,
                smooth_nr=1.0,
                smooth_dr=1.0,
            )(logits, target[:, None])
            # Its Jaccard has both numerator and denominator doubled: its smooth is twice ours.
            smooth = 0.5 if jaccard else 1.0
            options = {"squared": squared} if squared else {}
            loss = mine(logits, target, smooth=smooth, per_image=per_image, **options)
            assert_same(loss, theirs, logits, rel=1e-7)


@pytest.mark.parametrize("per_image", [False, True])
def test_tversky_and_generalised_dice_are_monais(
    monai: Any, batch: tuple[Tensor, Tensor], per_image: bool
) -> None:
    # With every class in every image, as above: monai gives absent classes the largest weight of
    # the others, where Sudre et al. have 1 / 0 and ours 0.
    logits, target = batch
    target = target.where(target != VOID, 0)
    target[:, 0, :5] = torch.arange(5)
    options = {"softmax": True, "to_onehot_y": True, "batch": not per_image}
    theirs = monai.TverskyLoss(**options, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0)
    mine = ref.tversky(logits, target, alpha=0.3, beta=0.7, smooth=1.0, per_image=per_image)
    assert_same(mine, theirs(logits, target[:, None]), logits, rel=1e-7)
    theirs = monai.GeneralizedDiceLoss(**options, smooth_nr=1e-3, smooth_dr=1e-3)
    mine = ref.generalised_dice(logits, target, smooth=1e-3, per_image=per_image)
    assert_same(mine, theirs(logits, target[:, None]), logits, rel=1e-6)  # w is float32 there


@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_is_smps(smp: Any, batch: tuple[Tensor, Tensor], per_image: bool) -> None:
    # smp's is Berman's own code. Per image it averages the images first, so each must hold
    # equally many classes for the mean over (image, class) pairs to agree.
    logits, target = batch
    if per_image:
        target[:, 1, :5] = torch.arange(5)
    else:
        target[target == 4] = 0  # an absent class
    theirs = smp.LovaszLoss("multiclass", ignore_index=VOID, per_image=per_image)
    mine = ref.lovasz_softmax(logits, target, per_image=per_image)
    # It computes the slopes in float32 and takes no other logits.
    assert_same(mine, theirs(logits.float(), target), logits, rel=1e-5)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    """Class 0: 2 of 4 in the union, class 1: 1 of 3, class 2 of neither map, so no part of it."""
    target = torch.tensor([[[0, 0, 0, 1, 1]]])
    prediction = torch.tensor([[[0, 0, 1, 1, 0]]])
    loss = ref.lovasz_softmax(perfect(prediction, 3), target)
    assert loss.item() == pytest.approx(((1 - 2 / 4) + (1 - 1 / 3)) / 2)


def test_regions_by_hand() -> None:
    """Two images of 4 pixels with p = (0.5, 0.3, 0.2) throughout; class 2 never occurs.

    Image 0 is 3 pixels of class 0 and 1 of class 1, image 1 is 2 of class 0 and 2 void.
    """
    logits = constant([0.5, 0.3, 0.2], 2, 2, n=2)
    target = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [VOID, VOID]]])

    def check(loss: Tensor, expected: float) -> None:
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    # Batch: class 0 has I 2.5, P 3, T 5; class 1 has I 0.3, P 1.8, T 1; class 2 has P 1.2.
    dice = (5 / 8, 0.6 / 2.8)
    check(ref.dice(logits, target), 1 - sum(dice) / 2)
    check(ref.chen2020_dice(logits, target), 1 - sum(dice) / 2)
    weights = torch.tensor([1.0, 3.0, 7.0])
    check(ref.dice(logits, target, class_weights=weights), 1 - (dice[0] + 3 * dice[1]) / 4)
    check(ref.dice(logits, target, smooth=1.0), 1 - (6 / 9 + 1.6 / 3.8) / 2)
    check(ref.dice(logits, target, squared=True), 1 - (5 / 6.5 + 0.6 / 1.54) / 2)
    check(ref.iou(logits, target), 1 - (2.5 / 5.5 + 0.3 / 2.5) / 2)
    check(
        ref.tversky(logits, target, alpha=0.3, beta=0.7),
        1 - (2.5 / (2.5 + 0.3 * 0.5 + 0.7 * 2.5) + 0.3 / (0.3 + 0.3 * 1.5 + 0.7 * 0.7)) / 2,
    )
    check(ref.dice_all(logits, target), 1 - 5.6 / 12)
    check(ref.dice_all(logits, target, smooth=1.0), 1 - 6.6 / 13)
    check(
        ref.generalised_dice(logits, target), 1 - 2 * (2.5 / 25 + 0.3) / (8 / 25 + 2.8)
    )  # w = 1 / 25 and 1
    # Per image: I 1.5, P 2, T 3 and I 0.3, P 1.2, T 1; in image 1, I 1, P 1, T 2.
    check(ref.dice(logits, target, per_image=True), 1 - (3 / 5 + 0.6 / 2.2 + 2 / 3) / 3)
    check(
        ref.dice(logits, target, per_image=True, class_weights=weights),
        1 - (3 / 5 + 3 * 0.6 / 2.2 + 2 / 3) / 5,
    )
    check(ref.iou(logits, target, per_image=True), 1 - (1.5 / 3.5 + 0.3 / 1.9 + 1 / 2) / 3)
    check(ref.dice_all(logits, target, per_image=True), 1 - (3.6 / 8 + 2 / 4) / 2)
    # The void pixels' p counts in xiang2020's: sum p^2 over 8 pixels is 8 * 0.38.
    check(ref.xiang2020_dice(logits, target), 1 - 6.6 / (8 * 0.38 + 6 + 1))
    # stevens2020's p is exp(logit), which is p here; absent class 2 counts as a loss of 1.
    check(
        ref.stevens2020_dice(logits, target, ignore_index=VOID),
        (1 - 5 / 8.0001 + 1 - 0.6 / 2.8001 + 1) / 3,
    )
    check(
        ref.stevens2020_dice(logits, target, ignore_index=VOID, class_weights=weights),
        (1 - 5 / 8.0001 + 3 * (1 - 0.6 / 2.8001) + 7) / 3,
    )


def test_stevens2020_dice_never_normalises() -> None:
    """Adding a constant to the logits, nothing to a softmax, changes it."""
    logits, target = constant([0.5, 0.5], 1, 2), torch.tensor([[[0, 1]]])
    assert not torch.isclose(
        ref.stevens2020_dice(logits + 3, target), ref.stevens2020_dice(logits, target)
    )
    assert ref.stevens2020_dice(logits + 1000, target).isnan()  # the report's "loss=nan"


def test_fixman2024_iou_of_a_perfect_prediction() -> None:
    """3 of 34 classes: 1 - 3 / 34 = 0.9118, as absent classes count as errors."""
    target = torch.tensor([[[0, 7, 7], [11, 0, 7]]])
    assert ref.fixman2024_iou(perfect(target, 34), target).item() == pytest.approx(1 - 3 / 34)
    assert ref.iou(perfect(target, 34), target).item() == 0


def test_fixman2024_iou_by_hand() -> None:
    """p = (0.5, 0.3, 0.2) on 3 pixels of class 0 and 1 of class 1: a third of the sum of IoUs."""
    loss = ref.fixman2024_iou(constant([0.5, 0.3, 0.2], 2, 2), torch.tensor([[[0, 0], [0, 1]]]))
    assert loss.item() == pytest.approx(1 - (1.5 / 3.5 + 0.3 / 1.9 + 0) / 3)


def test_fixman2024_dice_of_any_prediction() -> None:
    """One class on n = 68 * 32 pixels: every 34th of its n ones meets one, 1 - (2 n / 34 + 1) / ...

    That is 0.9704, and so is any other prediction, up to chance.
    """
    target = torch.zeros(1, 68, 32, dtype=torch.int64)
    loss = ref.fixman2024_dice(perfect(target, 34), target).item()
    assert loss == pytest.approx(1 - (2 * 64 + 1) / (2 * 68 * 32 + 1))
    assert round(loss, 4) == 0.9704
    assert ref.dice_all(perfect(target, 34), target).item() == 0
    torch.manual_seed(0)
    target = torch.tensor([7, 11, 23])[torch.randint(0, 3, (2, 64, 64))]
    for logits in (perfect(target, 34), torch.randn(2, 34, 64, 64)):
        assert ref.fixman2024_dice(logits, target).item() == pytest.approx(0.9706, abs=2e-3)


LIBRARY = [
    ref.cross_entropy,
    partial(ref.ohem_fraction, fraction=0.25),
    partial(ref.ohem_threshold, threshold=0.7, min_kept=3),
    ref.focal,
    *(
        partial(loss, per_image=per_image)
        for loss in (
            ref.dice,
            partial(ref.dice, smooth=1.0, squared=True),
            ref.dice_all,
            ref.generalised_dice,
            ref.tversky,
            ref.iou,
            ref.lovasz_softmax,
        )
        for per_image in (False, True)
    ),
]


@pytest.mark.parametrize("loss", LIBRARY)
def test_void_is_left_out(loss: partial[Tensor], batch: tuple[Tensor, Tensor]) -> None:
    """All void: 0, with a gradient. Some void: its logits do not matter and get no gradient."""
    logits, target = batch
    nothing = loss(logits, torch.full_like(target, VOID))
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, logits)[0].abs().max() == 0
    void = (target == VOID)[:, None].expand_as(logits)
    full = loss(logits, target)
    gradient = torch.autograd.grad(full, logits)[0]
    assert gradient[void].abs().max() == 0
    assert gradient.abs().max() > 0
    assert loss(logits.masked_fill(void, 5.0), target).item() == full.item()


@pytest.mark.parametrize("loss", LIBRARY)
def test_equal_weights_change_nothing(loss: partial[Tensor], batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    weighted = loss(logits, target, class_weights=torch.full((5,), 3.0))
    assert weighted.item() == pytest.approx(loss(logits, target).item())


@pytest.mark.parametrize("loss", LIBRARY)
def test_gradients(loss: partial[Tensor], batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    few = logits[:, :, :2, 2:4].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target[:, :2, 2:4], class_weights=WEIGHTS), few
    )
