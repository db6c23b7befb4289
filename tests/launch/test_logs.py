import threading
import time

from moeash.launch.logs import follow, last_lines, read_piece


def test_pieces_put_together_are_the_log_whatever_their_size(tmp_path):
    path, text = tmp_path / "log", "einsé\nключ 鍵 🔑\n" * 7
    path.write_text(text)
    for limit in range(4, 40):
        start, pieces = 0, []
        while (piece := read_piece(path, start, limit=limit)).text:
            pieces.append(piece.text)
            start = piece.next
        assert "".join(pieces) == text
        assert start == len(text.encode())


def test_a_log_that_is_not_there_or_was_read_is_empty(tmp_path):
    path = tmp_path / "log"
    assert read_piece(path, 7) == read_piece(path)
    path.write_text("abc")
    assert (read_piece(path, 3).text, read_piece(path, 99).next) == ("", 3)
    assert read_piece(path, -2).text == "bc"


def test_bytes_that_are_no_text_are_shown_and_do_not_stop_reading(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfe\x80" * 5 + b"end\xf0")
    start, read = 0, ""
    while (piece := read_piece(path, start, limit=4)).text:
        read, start = read + piece.text, piece.next
    assert "end" in read and start == 19


def test_following_gives_everything_that_was_written_until_the_end(tmp_path):
    path, is_over = tmp_path / "log", threading.Event()

    def write():
        with path.open("w") as file:
            for n in range(50):
                file.write(f"{n}\n")
                file.flush()
                time.sleep(0.005)
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert "".join(follow(path, is_over.is_set)) == "".join(f"{n}\n" for n in range(50))
    writer.join()


def test_the_last_lines_are_what_was_seen_last(tmp_path):
    path = tmp_path / "log"
    assert last_lines(path) == ""
    path.write_text("x" * 9000 + "\na\n\nb\n1 %\r2 %\n")
    assert last_lines(path).endswith("/ a / b / 2 %")
