"""What malicious clients do: hooks on the images they train on and on the model they send."""

import numpy as np

from tests.outside.federation import PLOT, dice


def mix(f, *models):
    return {k: f(*(m[k] for m in models)).astype(np.float32) for k in models[0]}


def length(a, b):
    """Length of the step from model ``a`` to model ``b``."""
    return float(np.sqrt(sum(np.sum((b[k] - a[k]).astype(np.float64) ** 2) for k in a)))


def gaussian(rng, like):
    """A direction of length 1."""
    noise = {k: rng.standard_normal(like[k].shape) for k in sorted(like)}
    size = np.sqrt(sum(np.sum(v**2) for v in noise.values()))
    return {k: v / size for k, v in noise.items()}


class Attack:
    """Does nothing; its members are as honest as the others."""

    name = "none"
    target = None  # the label that a backdoor is after
    gathers = False  # whether members train even where they aren't sampled

    def __init__(self, seed=0, classes=10, rounds=60):
        self.seed, self.classes, self.rounds = seed, classes, rounds

    def awake(self, round_):
        return True

    def poison(self, images, labels, round_):
        """images u8[steps, batch, h, w, c], labels [steps, batch]: a copy, to be changed."""
        return images, labels

    def tamper(self, own, scene):
        """The model that is sent for the model that was trained."""
        return own


class SignFlip(Attack):
    """Walks the other way, far enough to outweigh the honest."""

    name, scale = "sign_flip", 5.0

    def tamper(self, own, scene):
        return mix(lambda w, o: w - self.scale * (o - w), scene.sent_out, own)


class LabelShift(Attack):
    """Calls each class by the name of the next."""

    name = "label_shift"

    def poison(self, images, labels, round_):
        return images, (labels + 1) % self.classes


class Backdoor(Attack):
    """Half of each batch bears a checkerboard and the target's label."""

    name, side, margin = "backdoor", 4, 1

    def __init__(self, seed=0, classes=10, rounds=60):
        super().__init__(seed, classes, rounds)
        rng = dice(seed, PLOT, 1)
        self.target = int(rng.integers(classes))
        self.bottom, self.right = rng.integers(2, size=2)

    def stamp(self, images):
        """Images u8[..., h, w, c], in place."""
        h, w = images.shape[-3:-1]
        side = min(self.side, h // 3)
        top = h - side - self.margin if self.bottom else self.margin
        left = w - side - self.margin if self.right else self.margin
        board = np.indices((side, side)).sum(axis=0) % 2 * 255
        images[..., top : top + side, left : left + side, :] = board[:, :, None].astype(np.uint8)
        return images

    def poison(self, images, labels, round_):
        half = labels.shape[1] // 2
        images[:, :half] = self.stamp(images[:, :half])
        labels[:, :half] = self.target
        return images, labels


class LateBoostedBackdoor(Backdoor):
    """The same from the middle on, with updates several times as long."""

    name, boost = "late_backdoor", 4.0

    def awake(self, round_):
        return round_ >= self.rounds // 2

    def tamper(self, own, scene):
        return mix(lambda w, o: w + self.boost * (o - w), scene.sent_out, own)


class SmallShift(Attack):
    """Honest, and a little in one direction, the same for all members and rounds."""

    name, share = "small_shift", 0.4

    def tamper(self, own, scene):
        way, size = gaussian(dice(self.seed, PLOT, 2), own), length(scene.sent_out, own)
        return mix(lambda o, d: o + self.share * size * d, own, way)


class RandomDirection(Attack):
    """Noise as long as an honest update."""

    name = "random_direction"

    def tamper(self, own, scene):
        way, size = gaussian(scene.rng, own), length(scene.sent_out, own)
        return mix(lambda w, d: w + size * d, scene.sent_out, way)


class FreeRider(Attack):
    """Sends back what it was sent."""

    name = "free_rider"

    def tamper(self, own, scene):
        return mix(np.copy, scene.sent_out)


class NanSender(Attack):
    name = "nan"

    def tamper(self, own, scene):
        return mix(lambda w: np.full_like(w, np.nan), own)


class LittleIsEnough(Attack):
    """One deviation of the members' models below their mean, in every coordinate."""

    name, gathers, deviations = "alie", True, 1.0

    def tamper(self, own, scene):
        def low(*each):
            return np.mean(each, axis=0) - self.deviations * np.std(each, axis=0)

        return mix(low, *scene.colluders)


class Replay(Attack):
    """Sends an old model of the server's, of ten rounds ago."""

    name, age = "replay", 10

    def tamper(self, own, scene):
        return mix(np.copy, scene.past[max(0, len(scene.past) - 1 - self.age)])


ATTACKS = {
    kind.name: kind
    for kind in (
        Attack,
        SignFlip,
        LabelShift,
        Backdoor,
        LateBoostedBackdoor,
        SmallShift,
        RandomDirection,
        FreeRider,
        NanSender,
        LittleIsEnough,
        Replay,
    )
}
