"""Text to rows: the spacing, the start token, the held-out tenth, and every wrong text."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bitwright.store.batches import TextError, read_batches, read_text, tokenize, windows

CORPUS = [f"line {i} of the text, with words like {'abc' * (i % 5)} and é€\n\n" for i in range(200)]


class Characters:
    """One token per character: its code point; the start token is 1."""

    bos_token_id = 1
    is_fast = False

    def __call__(self, text, **options):
        assert options.pop("add_special_tokens") is False
        return {"input_ids": [ord(character) for character in text]}


class NoStart(Characters):
    bos_token_id = None


class Pairs(Characters):
    """Two characters are one token, counted from where the text begins: cutting a text changes its tokens."""

    is_fast = True

    def __call__(self, text, return_offsets_mapping=False, **options):
        starts = range(0, len(text), 2)
        return {
            "input_ids": [hash(text[i : i + 2]) % 10007 for i in starts],
            "offset_mapping": [(i, min(i + 2, len(text))) for i in starts],
        }


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def sentence_piece_like():
    """Like Llama 2: spaces become a letter, one is put in front, and merges may cross words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture
def write(tmp_path):
    def write(text, name="a.txt"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def letters(count):
    return "".join(chr(1000 + i) for i in range(count))


def test_rows_are_spaced_evenly_and_open_with_the_start_token(write):
    batches = read_batches(write(letters(100)), Characters(), positions=None, rows=4, length=6)
    assert batches.rows.dtype == torch.int64
    expected = [[1, *range(1000 + begin, 1005 + begin)] for begin in (0, 25, 50, 75)]
    assert batches.rows.tolist() == expected


def test_without_a_start_token_rows_are_plain(write):
    batches = read_batches(write(letters(40)), NoStart(), positions=None, rows=2, length=20)
    assert batches.rows.flatten().tolist() == list(range(1000, 1040))


@pytest.mark.parametrize("positions, length", [(None, 2048), (4096, 2048), (512, 512)])
def test_rows_are_as_long_as_the_model_takes_but_at_most_2048(write, positions, length):
    batches = read_batches(write("x" * 300_000), Characters(), positions)
    assert batches.rows.shape == (min(128, 300_000 // (length - 1)), length)


def test_a_text_for_fewer_rows_gives_as_many_as_fit_without_overlap(write):
    batches = read_batches(write(letters(33)), NoStart(), None, rows=128, length=10)
    assert batches.rows.shape == (3, 10)
    assert len(set(batches.rows.flatten().tolist())) == 30


def test_a_text_shorter_than_a_row_gives_one_short_row(write):
    batches = read_batches(write(letters(7)), Characters(), None, length=100)
    assert batches.rows.tolist() == [[1, *range(1000, 1007)]]
    assert batches.held_out == 0


@pytest.mark.parametrize("rows, held_out", [(1, 0), (2, 1), (10, 1), (11, 2), (70, 7), (128, 13)])
def test_a_tenth_of_the_rows_is_held_out(write, rows, held_out):
    batches = read_batches(write("x" * 4000), Characters(), None, rows=rows, length=9)
    assert (len(batches.rows), batches.held_out) == (rows, held_out)


def test_the_digest_is_that_of_the_rows(write):
    first = read_batches(write(letters(100)), Characters(), None, rows=4, length=6)
    again = read_batches(write(letters(100), "b.md"), Characters(), None, rows=4, length=6)
    other = read_batches(write("?" + letters(99)), Characters(), None, rows=4, length=6)
    longer = read_batches(write(letters(100)), Characters(), None, rows=4, length=7)
    assert first.digest == again.digest
    assert len({first.digest, other.digest, longer.digest}) == 3


def test_records_and_files_are_a_blank_line_apart_in_the_order_of_names(write):
    records = [{"text": "second"}, {"text": "third\u2028still", "other": 1}]
    write("\n\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n", "b.jsonl")
    write("first", "a.txt")
    write("hidden", ".c.txt")
    folder = write("fourth", "c.md").parent
    assert read_text(folder) == "first\n\nsecond\n\nthird\u2028still\n\nfourth"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TextError, match=r"gone.txt: no such file or folder; give a utf-8 text"):
        read_batches(tmp_path / "gone.txt", Characters(), None)


def test_an_empty_folder_says_what_to_put_into_it(tmp_path):
    with pytest.raises(TextError, match="an empty folder; put .txt"):
        read_batches(tmp_path, Characters(), None)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_an_empty_text_is_refused(write, text):
    with pytest.raises(TextError, match="holds no text"):
        read_batches(write(text), Characters(), None)


def test_a_text_without_tokens_is_refused(write):
    class Silent(Characters):
        def __call__(self, text, **options):
            return {"input_ids": []}

    with pytest.raises(TextError, match="turns it into no tokens"):
        read_batches(write("abc"), Silent(), None)


def test_rows_longer_than_the_model_takes_are_refused_with_both_numbers(write):
    with pytest.raises(TextError, match="length is 4096, but the model takes 2048 positions; use length <= 2048"):
        read_batches(write("abc"), Characters(), positions=2048, length=4096)


@pytest.mark.parametrize("length", [1, 0, -5])
def test_a_row_of_one_token_is_refused(write, length):
    with pytest.raises(TextError, match=f"length is {length}; a row needs at least 2"):
        read_batches(write("abc"), Characters(), None, length=length)


@pytest.mark.parametrize("rows", [0, -1])
def test_less_than_one_row_is_refused(write, rows):
    with pytest.raises(TextError, match=f"rows is {rows}; at least 1"):
        read_batches(write("abc"), Characters(), None, rows=rows)


def test_a_text_that_is_not_utf8_is_refused_with_the_place(write):
    with pytest.raises(TextError, match=r"a.txt: not utf-8 at byte 3"):
        read_batches(write(b"abc\xff"), Characters(), None)


@pytest.mark.parametrize("line, message", [("{", "not JSON"), ("[1]", 'no "text"'), ('{"text": 3}', 'no "text"')])
def test_a_wrong_record_is_refused_with_its_line(write, line, message):
    with pytest.raises(TextError, match=f"line 2: {message}"):
        read_batches(write('{"text": "good"}\n' + line, "a.jsonl"), Characters(), None)


def test_windows_overlap_by_one_token_and_predict_each_token_once():
    found = windows(letters(10), Characters(), 4)
    tokens = [1, *range(1000, 1010)]
    assert found == [tokens[0:4], tokens[3:7], tokens[6:10], tokens[9:11]]
    assert [token for window in found for token in window[1:]] == tokens[1:]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 30, 31])
def test_windows_predict_each_token_once_at_every_length(count):
    for tokenizer, start in ((Characters(), [1]), (NoStart(), [])):
        found = windows(letters(count), tokenizer, 4)
        tokens = [*start, *range(1000, 1000 + count)]
        assert [token for window in found for token in window[1:]] == tokens[1:]
        assert all(2 <= len(window) <= 4 for window in found)


def test_a_window_of_one_token_is_refused():
    with pytest.raises(TextError, match="length is 1"):
        windows("abc", Characters(), 1)


@pytest.mark.parametrize("make", [byte_level, sentence_piece_like])
@pytest.mark.parametrize("chunk", [300, 1000])
def test_a_long_text_is_tokenized_in_pieces_with_the_same_result(make, chunk):
    tokenizer, text = make(), "".join(CORPUS)
    calls = []

    class Counted(Characters):
        is_fast = True

        def __call__(self, text, **options):
            calls.append(len(text))
            return tokenizer(text, **options)

    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenize(text, Counted(), chunk=chunk, seam=100).tolist() == whole
    assert max(calls) < 3 * chunk + 400 and len(calls) > 3


def test_a_tokenizer_that_feels_the_cuts_gets_the_whole_text():
    text = "abc\n" * 500 + "x" + "abc\n" * 500
    whole = Pairs()(text)["input_ids"]
    assert tokenize(text, Pairs(), chunk=101, seam=21).tolist() == whole


def test_a_long_text_without_line_ends_is_tokenized_whole():
    text = "abc " * 500
    tokenizer = byte_level()
    assert tokenize(text, tokenizer, chunk=100, seam=20).tolist() == tokenizer(text)["input_ids"]
