"""The losses once more, written literally from their formulas and apart from the library.

Plain loops in float64 with autograd, without anything of citysegzoo, so that the library's losses
can be held against them. Nothing here is general or fast: what is read here is what is computed.

All take ``logits`` (N, C, H, W) and ``target`` (N, H, W) int64. Pixels of ``ignore_index`` (None:
there are none) take part in nothing, unless a report's form says otherwise. Where nothing is left
to average (every pixel ignored, or weights that add up to 0), the library forms are 0.

Letters: p probability, t one-hot target, I = sum p t, P = sum p, T = sum t, s = ``smooth``.
"""

from __future__ import annotations

import torch
from torch import Tensor

Weights = Tensor | None


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes, float64, from its definition."""
    logits = logits.double()
    powers = (logits - logits.amax(dim=1, keepdim=True).detach()).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of the softmax, float64; exact where a probability itself would vanish."""
    logits = logits.double()
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    return logits - logits.exp().sum(dim=1, keepdim=True).log()


def valid_pixels(target: Tensor, ignore_index: int | None) -> list[tuple[int, int, int]]:
    """The positions (n, y, x) that are not ignored."""
    n, height, width = target.shape
    return [
        (i, y, x)
        for i in range(n)
        for y in range(height)
        for x in range(width)
        if ignore_index is None or target[i, y, x].item() != ignore_index
    ]


def one_hot(target: Tensor, classes: int, ignore_index: int | None) -> Tensor:
    """(N, C, H, W) float64; ignored pixels, and labels that are no class, are 0 in every plane."""
    planes = [(target == c) & (target != _never(ignore_index)) for c in range(classes)]
    return torch.stack(planes, dim=1).double()


def validity(target: Tensor, ignore_index: int | None) -> Tensor:
    """(N, 1, H, W) float64: 1 where a pixel counts."""
    return (target != _never(ignore_index)).double()[:, None]


def _never(ignore_index: int | None) -> int:
    return -(10**9) if ignore_index is None else ignore_index


def weight_of(class_weights: Weights, c: int) -> float:
    return 1.0 if class_weights is None else float(class_weights[c])


def weighted_mean(terms: list[tuple[float, Tensor]], logits: Tensor) -> Tensor:
    """sum w x / sum w of pairs (w, x); 0, with a gradient of zeros, where the weights add to 0."""
    total = sum(w for w, _ in terms)
    result = logits.double().sum() * 0
    if total > 0:
        for w, x in terms:
            result = result + w * x / total
    return result


# Pixel by pixel


def pixel_losses(
    logits: Tensor, target: Tensor, ignore_index: int | None
) -> list[tuple[int, Tensor]]:
    """(class, -log p of that class) of each pixel that counts."""
    logs = log_probabilities(logits)
    pairs = []
    for i, y, x in valid_pixels(target, ignore_index):
        c = int(target[i, y, x])
        pairs.append((c, -logs[i, c, y, x]))
    return pairs


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy: sum of w_y (-log p_y) over sum of w_y.

    With label smoothing e the target is (1 - e) for the true class plus e / C for every class, each
    class's term carries its own weight, and the divisor stays the sum of w_y (as torch defines it).
    """
    logs = log_probabilities(logits)
    classes = logits.shape[1]
    numerator = logits.double().sum() * 0
    divisor = 0.0
    for i, y, x in valid_pixels(target, ignore_index):
        true = int(target[i, y, x])
        divisor += weight_of(class_weights, true)
        for c in range(classes):
            share = label_smoothing / classes + (1 - label_smoothing) * (c == true)
            numerator = numerator - weight_of(class_weights, c) * share * logs[i, c, y, x]
    return numerator / divisor if divisor > 0 else logits.double().sum() * 0


def ohem_fraction(
    logits: Tensor,
    target: Tensor,
    *,
    fraction: float,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Cross entropy of the ``fraction`` hardest pixels that count.

    Kept are max(1, floor(fraction * number of pixels that count)). The hardest have the least
    probability of their true class; class weights do not change which, but weigh the mean over
    them as in cross entropy.
    """
    losses = pixel_losses(logits, target, ignore_index)
    losses.sort(key=lambda pair: -pair[1].item())
    kept = losses[: max(1, int(fraction * len(losses)))]
    return weighted_mean([(weight_of(class_weights, c), loss) for c, loss in kept], logits)


def ohem_threshold(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float,
    min_kept: int,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Cross entropy of the pixels whose true class has a probability below ``threshold``.

    Of the whole batch at least ``min_kept`` are kept, the hardest ones, or all that count where
    there are fewer. Class weights weigh the mean over the kept pixels, as above.
    """
    losses = pixel_losses(logits, target, ignore_index)
    losses.sort(key=lambda pair: -pair[1].item())
    hard = [pair for pair in losses if (-pair[1]).exp().item() < threshold]
    kept = hard if len(hard) >= min_kept else losses[:min_kept]
    return weighted_mean([(weight_of(class_weights, c), loss) for c, loss in kept], logits)


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Softmax focal loss: sum of w_y (1 - p_y)^gamma (-log p_y) over sum of w_y.

    Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017, formula
    (4), with the softmax in place of the sigmoid. 1 - p_y is summed up from the other classes, so
    that it neither vanishes nor goes below 0 by rounding.
    """
    p = probabilities(logits)
    logs = log_probabilities(logits)
    terms = []
    for i, y, x in valid_pixels(target, ignore_index):
        true = int(target[i, y, x])
        others = sum(p[i, c, y, x] for c in range(p.shape[1]) if c != true)
        terms.append(
            (weight_of(class_weights, true), -(others**gamma) * logs[i, true, y, x]),
        )
    return weighted_mean(terms, logits)


# Regions


def groups(n: int, per_image: bool) -> list[list[int]]:
    """The images whose pixels are summed up together: all of them, or each alone."""
    return [[i] for i in range(n)] if per_image else [list(range(n))]


def sums(
    logits: Tensor,
    target: Tensor,
    images: list[int],
    c: int,
    ignore_index: int | None,
    squared: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """I, P and T of class c over the pixels of those images that count.

    Squared, P is the sum of p^2; T is then the sum of t^2, which is the sum of t.
    """
    p = probabilities(logits)
    valid = validity(target, ignore_index)
    t = one_hot(target, logits.shape[1], ignore_index)
    inside = predicted = true = logits.double().sum() * 0
    for i in images:
        inside = inside + (p[i, c] * t[i, c] * valid[i, 0]).sum()
        predicted = predicted + (p[i, c] ** (2 if squared else 1) * valid[i, 0]).sum()
        true = true + t[i, c].sum()
    return inside, predicted, true


def dice(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    squared: bool = False,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Soft Dice: mean of 1 - (2 I + s) / (P + T + s) over the classes present, weighted by class.

    Present is a class with a pixel that counts, in the batch or, per image, in the image; the
    mean per image is one over all pairs of an image and a class present in it. Squared as in
    Milletari, Navab, Ahmadi, "V-Net", 3DV 2016.
    """
    terms = []
    for images in groups(len(logits), per_image):
        for c in range(logits.shape[1]):
            inside, predicted, true = sums(logits, target, images, c, ignore_index, squared)
            if true > 0:
                ratio = (2 * inside + smooth) / (predicted + true + smooth)
                terms.append((weight_of(class_weights, c), 1 - ratio))
    return weighted_mean(terms, logits)


def dice_all(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    squared: bool = False,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Soft Dice of all classes at once: 1 - (2 sum w I + s) / (sum w (P + T) + s).

    The sums run over every class, absent ones too. Per image: the mean over the images with a
    pixel that counts.
    """
    terms = []
    for images in groups(len(logits), per_image):
        numerator = denominator = pixels = 0.0
        for c in range(logits.shape[1]):
            w = weight_of(class_weights, c)
            inside, predicted, true = sums(logits, target, images, c, ignore_index, squared)
            numerator = numerator + w * 2 * inside
            denominator = denominator + w * (predicted + true)
            pixels = pixels + true.item()
        if pixels > 0 and denominator + smooth > 0:
            terms.append((1.0, 1 - (numerator + smooth) / (denominator + smooth)))
    return weighted_mean(terms, logits)


def generalised_dice(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Generalised Dice: 1 - (2 sum w I + s) / (sum w (P + T) + s), w = 1 / T^2, 0 if absent.

    Sudre, Li, Vercauteren, Ourselin, Cardoso, "Generalised Dice overlap as a deep learning loss
    function for highly unbalanced segmentations", DLMIA 2017. Class weights multiply w. Per
    image: the mean over the images with a pixel that counts.
    """
    terms = []
    for images in groups(len(logits), per_image):
        numerator = denominator = 0.0
        for c in range(logits.shape[1]):
            inside, predicted, true = sums(logits, target, images, c, ignore_index)
            if true > 0:
                w = weight_of(class_weights, c) / true.item() ** 2
                numerator = numerator + 2 * w * inside
                denominator = denominator + w * (predicted + true)
        if denominator > 0:
            terms.append((1.0, 1 - (numerator + smooth) / (denominator + smooth)))
    return weighted_mean(terms, logits)


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 0.0,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Tversky: mean of 1 - (I + s) / (I + alpha FP + beta FN + s) over the classes present.

    Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", MLMI 2017. FP = sum p (1 - t), FN = sum (1 - p) t. Both 0.5 is
    Dice, whose smooth is then 2 s; both 1 is IoU.
    """
    terms = []
    for images in groups(len(logits), per_image):
        for c in range(logits.shape[1]):
            inside, predicted, true = sums(logits, target, images, c, ignore_index)
            if true > 0:
                false_positive, false_negative = predicted - inside, true - inside
                below = inside + alpha * false_positive + beta * false_negative + smooth
                terms.append((weight_of(class_weights, c), 1 - (inside + smooth) / below))
    return weighted_mean(terms, logits)


def iou(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Soft IoU (Jaccard): mean of 1 - (I + s) / (P + T - I + s) over the classes present.

    Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation", ISVC 2016.
    """
    terms = []
    for images in groups(len(logits), per_image):
        for c in range(logits.shape[1]):
            inside, predicted, true = sums(logits, target, images, c, ignore_index)
            if true > 0:
                ratio = (inside + smooth) / (predicted + true - inside + smooth)
                terms.append((weight_of(class_weights, c), 1 - ratio))
    return weighted_mean(terms, logits)


def jaccard_of_mistakes(mistakes: set[int], foreground: set[int]) -> float:
    """The set function of Berman et al.: |M| / |{y = c} u M|, 0 for no mistake."""
    return len(mistakes) / len(foreground | mistakes) if mistakes else 0.0


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Weights = None,
) -> Tensor:
    """Lovasz-softmax: mean over the classes present of the Lovasz extension of the Jaccard loss.

    Berman, Rannen Triki, Blaschko, "The Lovasz-Softmax loss: A tractable surrogate for the
    optimization of the intersection-over-union measure in neural networks", CVPR 2018. A
    pixel's error m is 1 - p_c where c is true and p_c elsewhere. With the errors in falling order
    the extension is the sum of m_i (D({1..i}) - D({1..i-1})), D being the Jaccard loss of a set
    of mistakes. Per image: the mean over all pairs of an image and a class present in it.
    (Berman's code averages each image first: other where images have unequally many classes.)
    """
    p = probabilities(logits)
    terms = []
    for images in groups(len(logits), per_image):
        pixels = [pixel for pixel in valid_pixels(target, ignore_index) if pixel[0] in images]
        for c in range(logits.shape[1]):
            errors: list[Tensor] = []
            foreground: set[int] = set()
            for number, (i, y, x) in enumerate(pixels):
                if int(target[i, y, x]) == c:
                    foreground.add(number)
                    errors.append(1 - p[i, c, y, x])
                else:
                    errors.append(p[i, c, y, x])
            if not foreground:
                continue
            order = sorted(range(len(errors)), key=lambda k: -errors[k].item())
            extension = logits.double().sum() * 0
            mistakes: set[int] = set()
            before = 0.0
            for number in order:
                mistakes.add(number)
                after = jaccard_of_mistakes(mistakes, foreground)
                extension = extension + errors[number] * (after - before)
                before = after
            terms.append((weight_of(class_weights, c), extension))
    return weighted_mean(terms, logits)


# The reports' own forms, as coded


def xiang2020_dice(logits: Tensor, target: Tensor, *, ignore_index: int | None = 255) -> Tensor:
    """1 - (2 sum p t + 1) / (sum p^2 + sum t^2 + 1), one sum over everything.

    In void pixels t is 0, but p counts: ignored is only the label.
    """
    p = probabilities(logits)
    t = one_hot(target, logits.shape[1], ignore_index)
    return 1 - (2 * (p * t).sum() + 1) / ((p**2).sum() + (t**2).sum() + 1)


def fixman2024_iou(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean of I / max(P + T - I, 1e-6) over every image and class, absent ones counted."""
    p = probabilities(logits)
    t = one_hot(target, logits.shape[1], None)
    total = logits.double().sum() * 0
    n, classes = logits.shape[:2]
    for i in range(n):
        for c in range(classes):
            inside = (p[i, c] * t[i, c]).sum()
            union = (p[i, c] + t[i, c]).sum() - inside
            total = total + inside / union.clamp(min=1e-6)
    return 1 - total / (n * classes)


def fixman2024_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 I + 1) / (P + T + 1) over all numbers in a row, which do not belong together.

    The probabilities are flattened channels first, the one-hot target channels last: the mistake
    that makes the loss about 1 - 1 / C whatever is predicted.
    """
    p = probabilities(logits).flatten()
    t = one_hot(target, logits.shape[1], None).permute(0, 2, 3, 1).flatten()
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def stevens2020_dice(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    class_weights: Weights = None,
) -> Tensor:
    """Sum over the classes of w (1 - 2 I / (P + T + 1e-4)), over C; the weights are not averaged.

    For p stands exp(logit): the code expects log-probabilities but is given logits. It is never
    normalised, so the loss can be far below 0 and overflows (the report's "loss=nan"). Absent
    classes count.
    """
    q = logits.double().exp() * validity(target, ignore_index)
    t = one_hot(target, logits.shape[1], ignore_index)
    total = logits.double().sum() * 0
    for c in range(logits.shape[1]):
        ratio = 2 * (q[:, c] * t[:, c]).sum() / ((q[:, c] + t[:, c]).sum() + 1e-4)
        total = total + weight_of(class_weights, c) * (1 - ratio)
    return total / logits.shape[1]


def chen2020_dice(logits: Tensor, target: Tensor, *, ignore_index: int | None = 255) -> Tensor:
    """Mean of 1 - 2 TP / (2 TP + FP + FN) over the classes present, soft counts of the batch.

    The report gives the ratio alone; soft counts, the mean over classes and no smoothing are a
    reading of it.
    """
    terms = []
    for c in range(logits.shape[1]):
        true_positive, predicted, true = sums(
            logits, target, list(range(len(logits))), c, ignore_index
        )
        if true > 0:
            false_positive, false_negative = predicted - true_positive, true - true_positive
            ratio = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
            terms.append((1.0, 1 - ratio))
    return weighted_mean(terms, logits)
