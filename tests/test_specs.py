"""Variants as strings, and what is refused."""

import pytest

from metasg_jax.aggregators import AGGREGATORS, Composed, Krum, NormBound
from metasg_jax.attacks import BACKDOOR, BFL, UNTARGETED, MinMax
from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.game import make_post_defense, make_rule, parse_type
from metasg_jax.post_defenses import Composed as ComposedDefense
from metasg_jax.post_defenses import FineTune, NeuronClip, Prune
from metasg_jax.pre_aggregators import Bucketing
from metasg_jax.registry import parse_variant


def test_fields_of_every_kind():
    assert parse_variant(AGGREGATORS, "norm_bound:max_norm=0.5", "rule") == NormBound(0.5)
    assert parse_variant(BACKDOOR, "bfl:replace_model=yes", "type") == BFL(replace_model=True)
    own = parse_variant(UNTARGETED, "min_max:perturbation=std,knowledge=own", "type")
    assert own == MinMax("std", "own")
    assert parse_variant(UNTARGETED, "rl:max_steps=3", "type").max_steps == 3


def test_what_is_given_yields_to_what_is_written():
    assert parse_variant(AGGREGATORS, "krum", "rule", f=3.0, model=None) == Krum(3.0)
    assert parse_variant(AGGREGATORS, "krum:f=1", "rule", f=3.0) == Krum(1.0)


def test_rules_behind_pre_aggregators_have_fields_too():
    rule = make_rule("bucketing:s=3+norm_bound:max_norm=2", 10, 0.2)
    assert rule == Composed((Bucketing(3),), NormBound(2.0))


def test_post_defences_in_a_row():
    assert make_post_defense("neuron_clip:range=-0.2") == NeuronClip(-0.2)
    both = make_post_defense("prune:rate=-1+fine_tune")
    assert both == ComposedDefense((Prune(-1.0), FineTune()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_rule("krum:g=1", 10, 0.2),
            "rule: krum in 'krum:g=1' has no knob 'g'; it has: f",
        ),
        (lambda: make_rule("krum:f=x", 10, 0.2), "rule: f = x in 'krum:f=x' is not a number"),
        (lambda: make_rule("bucketing:s=1.5+mean", 10, 0.2), "s = 1.5 .* a whole number"),
        (lambda: make_rule("norm_bound:max_norm=0", 10, 0.2), "NormBound: max_norm = 0: above 0"),
        (lambda: make_rule("bulyan", 10, 0.2), "Bulyan: f = 2: at most 1 with num_sampled = 10"),
        (lambda: make_post_defense("neuron_clip:range=2"), r"NeuronClip: range = 2: in \[-1, 1\]"),
        (lambda: make_post_defense("prune+prune:max_rate=2"), "Prune: max_rate = 2"),
        (lambda: parse_type("bfl:fraction=1.5@0.1", 10), r"BFL: fraction = 1.5: in \[0, 1\]"),
        (lambda: parse_type("ipm:scale=-1@0.1", 10), "IPM: scale = -1: above 0"),
        (lambda: parse_type("dba:parts=0@0.1", 10), "DBA: parts = 0: at least 1"),
        (lambda: parse_type("neurotoxin:share=1@0.1", 10), r"Neurotoxin: share = 1: in \[0, 1\)"),
        (lambda: parse_type("pgd:radius=0@0.1", 10), "PGD: radius = 0: above 0"),
        (lambda: parse_type("lmp_trim:b=1@0.1", 10), "LMPTrim: b = 1: above 1"),
        (lambda: parse_type("alie:knowledge=none@0.1", 10), "knowledge = none .* one of all, own"),
        (lambda: parse_type("bfl:replace_model=2@0.1", 10), "replace_model = 2 .* one of 1, true"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_wrong_name_gets_a_near_one():
    with pytest.raises(UnknownNameError, match="did you mean 'fine_tune'"):
        make_post_defense("prune+finetune")
