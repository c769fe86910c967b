"""Further attacks as loops over one text at a time: what is expected of them."""

import math

from naive_search import Asker, attackable, distinct, most_changes, taken_apart
from toy_attacks import masked_lm

from nlp_adv.attacks.words.example import FillRequest
from nlp_adv.attacks.words.words import Words, in_the_case_of


def _closed(words, gaps):
    """The text, without the spaces around words that are gone."""
    text = gaps[0]
    for i, word in enumerate(words):
        after = gaps[i + 1]
        if word:
            text += word + after
        elif not text:
            text = after.lstrip()
        else:
            text = text.rstrip() + after
    return text


def _said(asker, gaps, texts):
    """The texts that the budget reached, and what the model answers."""
    pairs = ((words, asker(_closed(words, gaps))) for words in texts)
    return [(words, said) for words, said in pairs if said is not None]


def _largest(pairs):
    return max(pairs, key=lambda pair: (pair[1].wrong, pair[1].margin))


def _with(words, changes):
    return [changes.get(i, word) for i, word in enumerate(words)]


def genetic(asker: Asker, text, attack, protocol, rng):
    """Alzantot et al., Algorithm 1."""
    words, gaps = taken_apart(text)
    original = (words, asker(text))
    if original[1].wrong:
        return original[1]
    options = {}
    for i in attackable(words, protocol):
        found = attack.neighbours.candidates(words[i], rng)
        found = distinct(words[i], found, protocol.candidates)[: attack.nearest]
        if found:
            options[i] = found
    if not options:
        return original[1]
    most = most_changes(words, protocol)

    def changed(current):
        return [i for i, word in enumerate(words) if current[i] != word]

    def perturbed(current, parent):
        free = [i for i in options if i not in changed(current)]
        tried = [current]
        if len(changed(current)) < most and free:
            (i,) = rng.choices(free, [len(options[j]) for j in free])
            tried = [_with(current, {i: one}) for one in options[i]]
        answers = _said(asker, gaps, tried)
        return _largest(answers) if answers else parent

    def crossed(one, two):
        if attack.crossover == "cut":
            cut = rng.randint(0, len(words))
            child = one[:cut] + two[cut:]
        else:
            child = [b if rng.random() < 0.5 else a for a, b in zip(one, two, strict=True)]
        places = changed(child)
        dropped = rng.sample(places, max(0, len(places) - most))
        return _with(child, {i: words[i] for i in dropped})

    population = [perturbed(words, original) for _ in range(attack.size)]
    best = _largest([*population, original])
    for _ in range(attack.generations):
        if best[1].wrong or asker.queries >= asker.budget:
            break
        least = min(said.margin for _, said in population)
        weights = [said.margin - least for _, said in population]
        children = []
        for _ in range(attack.size - 1):
            one, two = rng.choices(population, weights if sum(weights) > 0 else None, k=2)
            children.append(perturbed(crossed(one[0], two[0]), one))
        population = [best, *children]
        best = _largest(population)
    return best[1]


def reduction(asker: Asker, text, attack, protocol, rng):
    """Feng et al., by the answers themselves."""
    words, gaps = taken_apart(text)
    kept = [(words, asker(text))]
    if kept[0][1].wrong:
        return kept[0][1]
    while True:
        variants = []
        for current, _ in kept:
            left = [i for i, word in enumerate(current) if word]
            for i in left if len(left) > 1 else ():
                fewer = _with(current, {i: ""})
                if fewer not in variants:
                    variants.append(fewer)
        stay = [pair for pair in _said(asker, gaps, variants) if not pair[1].wrong]
        if not stay:
            return kept[0][1]
        kept = sorted(stay, key=lambda pair: pair[1].margin)[: attack.beam]


def clare(asker: Asker, text, attack, protocol, rng):
    """Li et al., Algorithm 1, one look of the language model an edit."""
    words, gaps = taken_apart(text)
    original = asker(text)
    if original.wrong:
        return original
    model, places, most = masked_lm(), attackable(words, protocol), most_changes(words, protocol)
    mask, worst = model.tokenizer.mask_token, {}
    for i in places:
        kinds = {"replace": {i: mask}, "insert": {i: f"{words[i]} {mask}"}}
        if i + 1 in places and most > 1:
            kinds["merge"] = {i: mask, i + 1: ""}
        for kind, change in kinds.items():
            masked = Words(tuple(_with(words, change)), tuple(gaps))
            ((tokens,),) = model([FillRequest([masked], [i], protocol.candidates)])
            likely = [t for t, log_p in tokens[-1] if math.exp(log_p) >= attack.least]
            found = [one for one in (model.word([t]) for t in likely) if one]
            if kind != "insert":
                found = [in_the_case_of(words[i], one) for one in found]
                found = distinct(words[i], found, protocol.candidates)
            for one in distinct("", found, attack.each):
                edit = dict(change) | {i: f"{words[i]} {one}" if kind == "insert" else one}
                said = asker(_closed(_with(words, edit), gaps))
                before = worst[i][0] if i in worst else original
                if said is not None and (said.wrong, said.margin) > (before.wrong, before.margin):
                    worst[i] = said, edit
    best, done = original, {}
    for i in sorted(worst, key=lambda i: (not worst[i][0].wrong, -worst[i][0].margin, i)):
        said, edit = worst[i]
        if done.keys() & edit.keys() or len(done) + len(edit) > most:
            continue
        if done:  # the first edit alone has been asked about
            said = asker(_closed(_with(words, done | edit), gaps))
        if said is None:
            break
        best, done = said, done | edit
        if best.wrong:
            break
    return best


def checklist(asker: Asker, text, attack, protocol, rng):
    """The worst edit of all places, again and again."""
    words, gaps = taken_apart(text)
    best = asker(text)
    if best.wrong:
        return best
    edits, done, most = [], {}, most_changes(words, protocol)
    for i, word in enumerate(words):
        found = attack.edits.candidates(word, rng)[: protocol.candidates]
        edits += [{i: one} for one in found]
        if i + 1 < len(words) and gaps[i + 1].isspace():
            drawn = attack.edits.pair(word, words[i + 1])
            edits += [{i: drawn, i + 1: ""}] if drawn else []
    while not best.wrong:
        tried = []
        for edit in edits:
            if done.keys() & edit.keys() or len(done) + len(edit) > most:
                continue
            said = asker(_closed(_with(words, done | edit), gaps))
            if said is not None and (said.wrong or said.margin > best.margin):
                tried.append((edit, said))
        if not tried:
            break
        edit, best = _largest(tried)
        done |= edit
    return best
