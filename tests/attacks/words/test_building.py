"""Attacks and engines by name: what they need, and the hash of what their numbers depend on."""

from dataclasses import replace

import pytest
from toy_attacks import attack_named, bag_of_words, flips_of, masked_lm, neighbours
from toy_victims import FREE, SENTENCES, light, right_texts, tokenizer_of

from nlp_adv.attacks.words.attacks import PWWS
from nlp_adv.attacks.words.attacks.build import (
    ATTACKS,
    Resources,
    attack_hash,
    build_attack,
    build_engine,
)
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.language_models import Similarity
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.errors import UserError


def tagger(words: list[str]) -> list[str]:
    return ["X"] * len(words)


class TestBuilding:
    def parts(self):
        tokenizer = tokenizer_of("wordpiece")
        return Victim(light(), tokenizer), Splicer(tokenizer, 40)

    def test_what_a_protocol_needs(self):
        encoder = Similarity(bag_of_words, "bag")
        for name, resources, missing in (
            ("textfooler2020", {"tagger": tagger}, "--encoder"),
            ("textfooler2020", {"encoder": encoder}, "--tagger"),
            ("li2021", {}, "--encoder"),
            ("a2t", {"encoder": encoder}, "--tagger"),
        ):
            with pytest.raises(UserError, match=missing) as caught:
                build_engine(*self.parts(), PROTOCOLS[name], Resources(**resources))
            assert name in str(caught.value)
        both = Resources(encoder=encoder, tagger=tagger)
        for protocol in PROTOCOLS.values():
            build_engine(*self.parts(), protocol, both)
        build_engine(*self.parts(), PROTOCOLS["default"], Resources())

    @pytest.mark.parametrize("name", ATTACKS)
    def test_what_an_attack_needs(self, name):
        needs = {
            "pwws": ("synonyms", neighbours(), "--wordnet"),
            "textfooler": ("neighbours", neighbours(), "--neighbours"),
            "a2t": ("neighbours", neighbours(), "--neighbours"),
            "bae": ("masked_lm", masked_lm(), "--masked_lm"),
            "bert-attack": ("masked_lm", masked_lm(), "--masked_lm"),
            "clare": ("masked_lm", masked_lm(), "--masked_lm"),
            "genetic": ("neighbours", neighbours(), "--neighbours"),
        }
        given = {}
        if name in needs:
            field, value, flag = needs[name]
            with pytest.raises(UserError, match=flag):
                build_attack(name, Resources(), *self.parts())
            given = {field: value}
        resources = Resources(**given)
        attack = build_attack(name, resources, *self.parts())
        assert attack.name == name
        engine = build_engine(*self.parts(), PROTOCOLS["default"], resources)
        (record,) = engine.run(attack, right_texts(texts=SENTENCES[:1]))
        assert record.attack == name
        assert attack_hash(attack, PROTOCOLS["default"], resources)

    def test_no_such_attack(self):
        with pytest.raises(UserError, match="textfooler"):
            build_attack("textfoller", Resources(), *self.parts())

    def test_hash_of_an_attack(self):
        protocol = Protocol(name="x", min_similarity=0.5, same_part_of_speech=True)
        bag = Similarity(bag_of_words, "bag")

        def found(attack, protocol=protocol, encoder=bag, tagger_name="toy") -> str:
            return attack_hash(
                attack, protocol, Resources(encoder=encoder, tagger_name=tagger_name)
            )

        flips = flips_of(light())
        hashes = [
            found(PWWS(neighbours())),
            found(PWWS(replace(neighbours(), fingerprint="other"))),
            found(attack_named("textfooler")),
            found(attack_named("bert-attack")),
            found(replace(attack_named("bert-attack"), most=7)),
            found(flips),
            found(replace(flips, beam=7)),
            found(PWWS(neighbours()), encoder=Similarity(bag_of_words, "other")),
            found(PWWS(neighbours()), tagger_name="other"),
            found(PWWS(neighbours()), replace(protocol, candidates=3)),
            found(PWWS(neighbours()), FREE),
        ]
        assert len(set(hashes)) == len(hashes)
        # The victim is not part of it: its vocabulary is no setting of the attack.
        other = flips_of(light(2))
        assert found(other) == found(flips)
        # What a protocol does not use does not count.
        assert found(PWWS(neighbours()), FREE) == found(
            PWWS(neighbours()), FREE, Similarity(bag_of_words, "other"), "other"
        )
