"""Files of records: whole, cut off by a killed run, damaged, in shards."""

import errno
import json
import math
import os
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import changed as other
from made_records import point_record, words_record

from nlp_adv.errors import UserError
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.record import line as bytes_of
from nlp_adv.robustness.records import RecordWriter, merge, read_records
from nlp_adv.robustness.shards import Shard

TEXTS = {
    "original": "ein schöner Film",
    "adversarial": "ein schöner\nFilm\r\u2028“naïve” 😀\\u00e4 \x85}",
}


def record(number=0, outcome="fooled", **changes) -> Record:
    exact = {"confidence": 0.1 + 0.2, "adversarial_confidence": 1 / 3}
    return words_record(number, outcome, **TEXTS | exact | changes)


def write(path, records) -> None:
    with RecordWriter(path) as writer:
        for one in records:
            writer.write(one)


def line(one: Record) -> str:
    return bytes_of(one).decode("utf-8")


THREE = [
    record(4),
    record(1, context="premise"),
    point_record(4, "fooled", epsilon=8 / 255, first_gradient=1e-9),
]


class TestRoundTrip:
    def test_what_was_written_is_read(self, tmp_path):
        path = tmp_path / "new" / "folder" / "records.jsonl"
        write(path, THREE)
        assert read_records(path) == THREE
        data = path.read_bytes()
        assert data.decode("utf-8") == "".join(map(line, THREE))
        assert data.count(b"\n") == 3

    texts = st.text(max_size=12)

    @given(
        st.lists(
            st.builds(
                record,
                st.integers(0, 10**9),
                attack=st.sampled_from(["swap", "élan, «ß»"]),
                original=texts,
                adversarial=texts,
                context=st.none() | texts,
                confidence=st.floats(0, 1),
                outcome=st.sampled_from(["wrong", "robust", "fooled"]),
                budget_stopped=st.booleans(),
            ),
            max_size=3,
            unique_by=lambda one: (one.attack, one.id),
        )
    )
    def test_any_text_and_number(self, tmp_path_factory, records):
        path = tmp_path_factory.mktemp("records") / "records.jsonl"
        write(path, records)
        assert read_records(path) == records
        path.read_bytes().decode("utf-8")

    @pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\\\ud800", "\udfff\ud800"], ids=ascii)
    def test_half_a_character(self, tmp_path, text):
        """As broken JSON data may hold; a file of records is UTF-8 all the same."""
        path = tmp_path / "records.jsonl"
        write(path, [record(original=text)])
        assert read_records(path)[0].text == text
        path.read_bytes().decode("utf-8")

    def test_nan_is_null(self, tmp_path):
        path = tmp_path / "records.jsonl"
        write(path, [record(confidence=math.nan)])
        assert '"confidence": null' in path.read_text(encoding="utf-8")
        (found,) = read_records(path)
        assert math.isnan(found.confidence)
        assert found.adversarial_confidence == 1 / 3

    def test_fields_with_a_default_may_be_missing(self, tmp_path):
        path = tmp_path / "records.jsonl"
        fields = json.loads(line(record(example="")))
        del fields["words"]["context"], fields["words"]["budget_stopped"], fields["example"]
        path.write_text(json.dumps(fields), encoding="utf-8")
        assert read_records(path) == [record()]

    def test_an_empty_file_and_empty_lines(self, tmp_path):
        path = tmp_path / "records.jsonl"
        path.write_bytes(b"")
        assert read_records(path) == []
        path.write_text("\n" + line(record()) + "\r\n", encoding="utf-8")
        assert read_records(path) == [record()]


class TestKilledRuns:
    def test_every_cut_keeps_all_whole_lines(self, tmp_path):
        """Whatever byte the run was killed at, also inside a character."""
        path = tmp_path / "records.jsonl"
        write(path, THREE)
        data = path.read_bytes()
        ends = [at for at, byte in enumerate(data) if byte == ord("\n")]
        for length in (*range(30), *range(ends[1] - 5, len(data) + 1)):
            path.write_bytes(data[:length])
            # A line that lacks nothing but its end is whole.
            whole = sum(end <= length for end in ends)
            assert read_records(path) == THREE[:whole]
            if length % 50 == 0 or length in ends or length - 1 in ends:
                write(path, THREE[whole:])
                assert path.read_bytes() == data

    def test_each_record_is_out_of_the_process_before_the_next(self, tmp_path):
        path = tmp_path / "records.jsonl"
        with RecordWriter(path) as writer:
            for number, one in enumerate(THREE, 1):
                writer.write(one)
                assert read_records(path) == THREE[:number]

    def test_an_exception_inside_keeps_what_was_written(self, tmp_path):
        path = tmp_path / "records.jsonl"

        def records():
            yield record()
            raise RuntimeError("the model broke")

        with pytest.raises(RuntimeError, match="the model broke"):
            write(path, records())
        assert read_records(path) == [record()]

    def test_what_is_on_the_disk_is_synced_before_it_is_closed(self, tmp_path, monkeypatch):
        synced = []
        monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
        path = tmp_path / "records.jsonl"
        write(path, THREE)
        assert synced == [path.stat().st_size]


class TestWriter:
    def test_goes_on_behind_what_is_there(self, tmp_path):
        path = tmp_path / "records.jsonl"
        write(path, THREE[:1])
        write(path, THREE[1:])
        write(path, [])
        assert read_records(path) == THREE

    def test_an_example_is_written_once(self, tmp_path):
        path = tmp_path / "records.jsonl"
        write(path, THREE[:1])
        with RecordWriter(path) as writer:
            writer.write(THREE[1])
            for one in THREE[:2]:
                with pytest.raises(ValueError, match="has it already"):
                    writer.write(one)
        assert read_records(path) == THREE[:2]

    def test_only_while_it_is_open(self, tmp_path):
        writer = RecordWriter(tmp_path / "records.jsonl")
        with pytest.raises(ValueError, match="not open"):
            writer.write(record())
        with writer:
            writer.write(record())
        with pytest.raises(ValueError, match="not open"):
            writer.write(record(2))

    @pytest.mark.parametrize(
        "content",
        [
            b"a report without an end",
            b"\x89PNG\r\n\x1a\n\x00",
            b'{"loss": 0.3',
            b'{"loss": 0.3}',
            b"[1, 2]\n",
            b'{"id": 3}',
        ],
        ids=str,
    )
    def test_another_file_is_left_as_it_was(self, tmp_path, content):
        path = tmp_path / "notes.txt"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"notes\.txt, line 1"):
            RecordWriter(path).__enter__()
        assert path.read_bytes() == content
        with pytest.raises(UserError, match=r"notes\.txt, line 1"):
            read_records(path)

    def test_a_folder_or_a_file_as_folder(self, tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            RecordWriter(tmp_path).__enter__()
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            RecordWriter(tmp_path / "file" / "records.jsonl").__enter__()


class FullDisk:
    """A file on a disk with so many bytes left."""

    def __init__(self, file, space: int) -> None:
        self.file, self.space = file, space

    def write(self, data: bytes) -> int:
        if not self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: self.space]
        self.space -= len(part)
        return self.file.write(part)

    def __getattr__(self, name):
        return getattr(self.file, name)


class TestFullDisk:
    @pytest.mark.parametrize("spare", [0, 1, 200])
    def test_says_what_is_kept_and_goes_on_from_there(self, tmp_path, spare):
        path = tmp_path / "records.jsonl"
        write(path, [record(100), record(101)])
        records = [record(number) for number in range(10)]
        space = sum(len(line(one).encode()) for one in records[:4]) + spare
        with RecordWriter(path) as writer:
            writer._file = FullDisk(writer._file, space)
            for one in records[:4]:
                writer.write(one)
            with pytest.raises(UserError, match=r"No space left.* 6 finished examples are kept"):
                writer.write(records[4])
            with pytest.raises(ValueError, match="not open"):
                writer.write(records[5])
        kept = [record(100), record(101), *records[:4]]
        assert read_records(path) == kept
        write(path, records[4:])
        assert read_records(path) == [*kept, *records[4:]]

    def test_a_disk_that_takes_a_part_at_a_time(self, tmp_path):
        class Slow(FullDisk):
            def write(self, data: bytes) -> int:
                return self.file.write(data[:7])

        path = tmp_path / "records.jsonl"
        with RecordWriter(path) as writer:
            writer._file = Slow(writer._file, 0)
            writer.write(record())
        assert read_records(path) == [record()]

    def test_a_disk_that_fails_at_the_end(self, tmp_path, monkeypatch):
        def fail(number):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=r"Input/output error.* 3 finished examples"):
            write(tmp_path / "records.jsonl", THREE)


def damaged(**changes) -> str:
    """A line with other fields, wherever they stand, or without: `...`."""
    fields = json.loads(line(record(5)))
    for name, value in changes.items():
        place = fields["words"] if name in fields["words"] else fields
        place[name] = value
        if value is ...:
            del place[name]
    return json.dumps(fields) + "\n"


class TestDamage:
    @pytest.mark.parametrize(
        ("bad", "match"),
        [
            ("not json\n", "bad JSON"),
            (line(record(5))[:-3] + "\n", "bad JSON"),
            ("[1]\n", "not a JSON object"),
            (damaged(queries=...), "no field queries"),
            (damaged(queries=..., words=...), "no field queries, words"),
            (damaged(colour="red"), "unknown field colour"),
            (damaged(outcome="lost"), "outcome is 'lost'; it must be wrong, robust, fooled"),
            (damaged(id="5"), "id is '5', not int"),
            (damaged(id=True), "id is True, not int"),
            (damaged(queries=1.5), r"queries is 1\.5, not int"),
            (damaged(queries=None), "queries is None, not int"),
            (damaged(original=None), "original is None, not str"),
            (damaged(confidence="high"), "confidence is 'high', not float"),
            (damaged(budget_stopped=1), "budget_stopped is 1, not bool"),
            (damaged(context=3), "context is 3, not str"),
            (damaged(version=3), "a later version"),
            (
                line(record(5)).replace('"words": {', '"said": {'),
                "one of the fields words and point, not 0",
            ),
            (re.sub(r'"words": {.*}', '"words": []}', line(record(5))), "not a JSON object"),
            (damaged(point={}), "one of the fields words and point, not 2"),
            (line(record(1)), "example 1 of swap is in line 2 already"),
        ],
    )
    def test_the_line_is_named(self, tmp_path, bad, match):
        path = tmp_path / "records.jsonl"
        lines = [line(record(number)) for number in range(3)]
        path.write_text("".join([*lines, bad, line(record(9))]), encoding="utf-8")
        with pytest.raises(UserError, match=rf"records\.jsonl, line 4: .*{match}"):
            read_records(path)
        with pytest.raises(UserError, match=rf"records\.jsonl, line 4: .*{match}"):
            RecordWriter(path).__enter__()

    def test_bytes_that_are_no_text(self, tmp_path):
        path = tmp_path / "records.jsonl"
        broken = line(record(1)).encode().replace("ö".encode(), b"\xf6")
        path.write_bytes(line(record(0)).encode() + broken)
        with pytest.raises(UserError, match=r"line 2: bad JSON \(not UTF-8"):
            read_records(path)

    def test_a_damaged_line_with_an_end_is_no_killed_run(self, tmp_path):
        path = tmp_path / "records.jsonl"
        path.write_text(line(record(0)) + line(record(1))[:30] + "\n", encoding="utf-8")
        with pytest.raises(UserError, match="line 2"):
            read_records(path)

    def test_long_values_are_cut_in_messages(self, tmp_path):
        path = tmp_path / "records.jsonl"
        path.write_text(damaged(id="x" * 5000), encoding="utf-8")
        with pytest.raises(UserError) as caught:
            read_records(path)
        assert len(str(caught.value)) < 300 + len(str(path))

    def test_no_file(self, tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_records(tmp_path / "none.jsonl")
        with pytest.raises(UserError, match="cannot be read"):
            read_records(tmp_path)


# As nlp_adv 0.5 wrote them.
OLD_TEXT = (
    '{"id": 7, "attack": "textfooler", "original": "a good film", "adversarial": "a nice film", '
    '"label": 1, "outcome": "succeeded", "queries": 12, "forwards": 9, "tokens": 45, "words": 3, '
    '"words_changed": 1, "prediction": 1, "adversarial_prediction": 0, "confidence": 0.98, '
    '"adversarial_confidence": 0.61, "budget_stopped": false, "context": null}'
)
OLD_EMBEDDING = (
    '{"id": 7, "attack": "embedding-pgd-l2@0.02", "original": "a good film", '
    '"adversarial": "a good film", "label": 1, "outcome": "failed", "queries": 21, "forwards": 21, '
    '"tokens": 105, "words": 3, "words_changed": 0, "prediction": 1, "adversarial_prediction": 1, '
    '"confidence": 0.98, "adversarial_confidence": null, "budget_stopped": false, '
    '"context": "and another"}'
)
OLD_IMAGE = (
    '{"id": 7, "attack": "pgd-linf", "pixels": "a0b1c2d3e4f5", "label": 1, "clean_answer": 1, '
    '"answer": 1, "clean_confidence": 0.98, "confidence": 0.7, "outcome": "failed", '
    '"survives_8_bit": false, "l2": 0.3, "linf": 0.03, "l1": 2.0, "l0": 64, "gradient_passes": 20, '
    '"zero_gradient": true, "first_loss": -2.0, "last_loss": null}'
)


class TestOldLines:
    def found(self, tmp_path, *lines: str) -> list[Record]:
        (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_records(tmp_path / "records.jsonl")

    def test_a_text_under_an_attack_on_words(self, tmp_path):
        (one,) = self.found(tmp_path, OLD_TEXT)
        assert one == words_record(
            7, "fooled", attack="textfooler", adversarial="a nice film", queries=12, forwards=9,
            tokens=45, confidence=0.98, adversarial_confidence=0.61,
        )  # fmt: skip

    def test_a_text_under_an_attack_on_embeddings(self, tmp_path):
        (one,) = self.found(tmp_path, OLD_EMBEDDING)
        assert (one.attack, one.epsilon, one.title) == (
            "embedding-pgd-l2",
            0.02,
            "embedding-pgd-l2@0.02",
        )
        assert (one.text, one.found.context, one.found.tokens) == (
            "a good film",
            "and another",
            105,
        )
        assert (one.outcome, one.forwards) == ("robust", 21)
        assert math.isnan(one.adversarial_confidence)
        assert math.isnan(one.found.first_gradient)
        assert not one.changes_text

    def test_an_image(self, tmp_path):
        (one,) = self.found(tmp_path, OLD_IMAGE)
        found = {"l2": 0.3, "linf": 0.03, "l1": 2.0, "l0": 64.0, "gradient_passes": 20}
        assert one == point_record(
            7, example="a0b1c2d3e4f5", confidence=0.98, adversarial_confidence=0.7,
            first_gradient=0.0, first_loss=-2.0, last_loss=math.nan, **found,
        )  # fmt: skip
        seeing = self.found(tmp_path, OLD_IMAGE.replace("true", "false"))
        assert math.isnan(seeing[0].found.first_gradient)

    def test_a_name_with_an_at_is_no_radius(self, tmp_path):
        (one,) = self.found(tmp_path, OLD_TEXT.replace("textfooler", "mine@home"))
        assert (one.attack, one.epsilon, one.changes_text) == ("mine@home", None, True)

    def test_a_run_goes_on_behind_them(self, tmp_path):
        path = tmp_path / "records.jsonl"
        path.write_text(OLD_TEXT + "\n" + OLD_TEXT[:50], encoding="utf-8")
        write(path, [record(8)])
        assert [one.id for one in read_records(path)] == [7, 8]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (('"queries": 12, ', ""), "no field queries"),
            (('"queries"', '"asked"'), "no field queries"),
            (('"queries": 12', '"queries": "12"'), "queries is '12', not int"),
            (("succeeded", "fooled"), "outcome is 'fooled'; it must be skipped, failed, succeeded"),
        ],
    )
    def test_damage_is_named(self, tmp_path, change, match):
        with pytest.raises(UserError, match=match):
            self.found(tmp_path, OLD_TEXT.replace(*change))

    @pytest.mark.parametrize(
        "change", [('"l1": 2.0, ', ""), ('"zero_gradient": true', '"zero_gradient": 1')]
    )
    def test_damage_of_an_image_is_named(self, tmp_path, change):
        with pytest.raises(UserError, match=r"line 1: .*(no field l1|zero_gradient is 1)"):
            self.found(tmp_path, OLD_IMAGE.replace(*change))


class TestShards:
    @given(st.integers(1, 9), st.integers(0, 1000))
    def test_each_example_is_in_one(self, of, number):
        taking = [index for index in range(1, of + 1) if Shard(index, of).takes(number)]
        assert taking == [number % of + 1]
        assert Shard.parse(f"{taking[0]}/{of}") == Shard(taking[0], of)

    @pytest.mark.parametrize(
        "text",
        ["", "2", "0/8", "9/8", "1/0", "-1/8", "1/-8", "1.5/8", "a/b", "1/8/2", "١/٢", "2 8"],
    )
    def test_nonsense(self, text):
        with pytest.raises(UserError, match="2/8"):
            Shard.parse(text)

    def test_merged_shards_are_the_straight_run(self, tmp_path):
        records = [record(n, attack=attack) for attack in ("a", "b") for n in range(11)]
        paths = []
        for index in (3, 1, 2):
            mine = [one for one in records if Shard(index, 3).takes(one.id)]
            random.Random(index).shuffle(mine)
            paths.append(tmp_path / f"{index}.jsonl")
            write(paths[-1], mine)
        assert merge(paths) == records
        joined = tmp_path / "joined.jsonl"
        joined.write_bytes(b"".join(path.read_bytes() for path in paths))
        assert sorted(read_records(joined), key=lambda one: (one.attack, one.id)) == records

    def test_equal_duplicates_are_dropped(self, tmp_path):
        unsure = record(2, confidence=math.nan)
        write(tmp_path / "a", [record(1), unsure])
        write(tmp_path / "b", [unsure, record(3)])
        found = merge([tmp_path / "a", tmp_path / "b"])
        assert [one.id for one in found] == [1, 2, 3]
        assert merge([]) == []

    @pytest.mark.parametrize(
        "change", [{"queries": 11}, {"outcome": "robust"}, {"confidence": math.nan}]
    )
    def test_duplicates_that_disagree_are_refused(self, tmp_path, change):
        write(tmp_path / "a", [record(1), record(2)])
        write(tmp_path / "b", [other(record(2), **change)])
        with pytest.raises(UserError, match=r"a and .*b disagree on example 2 of swap"):
            merge([tmp_path / "a", tmp_path / "b"])
