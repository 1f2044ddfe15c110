"""Objects of a real S3-compatible server: written once, over what was seen, never in part."""

import itertools
import pickle
from datetime import timedelta

import pytest

from tests.object_store import refuse
from workers.base import bucket as buckets
from workers.base.bucket import Bucket, ChangedError
from workers.base.lease import LostError


@pytest.fixture
def bucket(store, monkeypatch):
    fast = {**buckets.RETRY, "max_retries": 4, "retry_timeout": timedelta(seconds=5)}
    fast["backoff"] = {"init_backoff": timedelta(milliseconds=5)}
    monkeypatch.setattr(buckets, "RETRY", fast)
    store.fault = None
    yield Bucket(f"{store.new_bucket()}/runs/one")
    store.fault = None


def test_what_is_written_is_read(bucket, tmp_path):
    stat = bucket.write("images/00000.parquet", b"rows", None)
    assert bucket.stat("images/00000.parquet") == stat
    assert bucket.read("images/00000.parquet") == (b"rows", stat)
    bucket.download("images/00000.parquet", tmp_path / "here" / "file")
    assert (tmp_path / "here" / "file").read_bytes() == b"rows"
    other = pickle.loads(pickle.dumps(bucket))
    assert other.list() == {"images/00000.parquet": stat}
    assert Bucket(bucket.url.removesuffix("/one")).list("one").keys() == {
        "one/images/00000.parquet"
    }


def test_nothing_is_there_until_it_is_written(bucket, tmp_path):
    assert bucket.stat("a") is None
    assert bucket.list() == {}
    for read in (lambda: bucket.read("a"), lambda: bucket.download("a", tmp_path / "a")):
        with pytest.raises(FileNotFoundError, match="runs/one/a"):
            read()
    assert not any(tmp_path.iterdir())
    bucket.delete(["a"])


def test_an_object_is_created_once_and_written_over_only_as_it_was_seen(bucket):
    first = bucket.write("a", b"1", None)
    with pytest.raises(ChangedError):
        bucket.write("a", b"2", None)
    second = bucket.write("a", b"2", first)
    with pytest.raises(ChangedError):
        bucket.write("a", b"3", first)
    bucket.delete(["a"])
    with pytest.raises(ChangedError):
        bucket.write("a", b"3", second)
    assert bucket.stat("a") is None


def test_what_one_may_write_over_is_asked_after_it_was_seen(bucket):
    bucket.write("a", b"mine", None)

    def lost():
        raise PermissionError

    with pytest.raises(PermissionError):
        bucket.write_over("a", b"of an old owner", lost)
    assert bucket.read("a")[0] == b"mine"

    def taken():  # between what was seen and the write, as while a process is stopped
        if bucket.read("a")[0] == b"mine":
            bucket.write("a", b"the new owner's", bucket.stat("a"))
        else:
            lost()

    with pytest.raises(PermissionError):
        bucket.write_over("a", b"of an old owner", taken)
    assert bucket.read("a")[0] == b"the new owner's"
    assert bucket.write_over("a", b"mine again", lambda: None).size == 10


def test_a_store_that_is_busy_is_asked_again(bucket, store):
    numbers = itertools.count()

    def every_second(_environ, start, _application):
        return refuse("503 Slow Down", start) if next(numbers) % 2 == 0 else None

    store.fault = every_second
    for number in range(5):
        bucket.write(f"{number}", b"x" * number, None)
    assert {name: stat.size for name, stat in bucket.list().items()} == {
        f"{number}": number for number in range(5)
    }


def test_a_write_whose_answer_is_lost_has_been_done(bucket, store):
    lost: list[object] = []

    def lose_one(environ, start, application):
        if environ["REQUEST_METHOD"] == "PUT" and not lost:
            lost.append(list(application(environ, lambda *_: None)))
            return refuse("500 Internal Server Error", start)
        return None

    store.fault = lose_one
    assert bucket.write("a", b"content", None).size == 7
    assert lost
    assert bucket.read("a")[0] == b"content"


def test_what_is_cut_off_on_its_way_goes_on_or_is_no_content(bucket, store, tmp_path):
    content = bytes(range(256)) * 400
    bucket.write("a", content, None)
    most = 60_000

    def cut(environ, start, application):
        if environ["REQUEST_METHOD"] != "GET":
            return None
        return [b"".join(application(environ, start))[:most]]

    store.fault = cut
    assert bucket.read("a")[0] == content
    bucket.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    most = 100
    with pytest.raises(OSError, match="runs/one/a"):
        bucket.read("a")
    with pytest.raises(OSError, match="runs/one/a"):
        bucket.download("a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [("403 Forbidden", PermissionError), ("401 Unauthorized", PermissionError)],
)
def test_what_is_forbidden_is_a_permission_error(bucket, store, status, kind):
    store.fault = lambda _environ, start, _application: refuse(status, start)
    for ask in (bucket.time, bucket.list, lambda: bucket.read("a"), lambda: bucket.stat("a")):
        with pytest.raises(kind, match=bucket.url) as error:
            ask()
        assert "S3CRET" not in str(error.value)


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """AWS's file of named credentials, and none in the environment."""
    path = tmp_path / "credentials"
    path.write_text("[nightly]\naws_access_key_id = SOMEBODYS\naws_secret_access_key = S3CRET\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def test_credentials_may_be_those_of_a_named_profile(bucket, store, profiles, monkeypatch):
    seen = []
    store.fault = lambda environ, *_: seen.append(environ["HTTP_AUTHORIZATION"])
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    bucket.write("a", b"1", None)
    assert all("Credential=SOMEBODYS/" in text for text in seen)
    assert seen


def test_a_profile_that_is_not_there_is_named(bucket, profiles, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "weekly")
    with pytest.raises(OSError, match=r"AWS_PROFILE: .*\(weekly\)"):
        bucket.check()


def test_a_bucket_that_is_not_there_is_no_missing_object(store):
    absent = Bucket("s3://absent/run")
    for ask in (absent.time, absent.list, lambda: absent.read("a")):
        with pytest.raises(OSError, match="NoSuchBucket|does not exist") as error:
            ask()
        assert not isinstance(error.value, FileNotFoundError)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of three parts."""
    monkeypatch.setattr(buckets, "PART", 5 << 20)  # the least that a store takes
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (12 << 12))
    return path


def nothing():
    pass


def test_a_large_file_is_sent_in_parts_and_copied_in_parts(bucket, store, large, monkeypatch):
    bucket.write("a", b"before", None)
    asks: list = []
    asked = len(store.requests)
    stat = bucket.send("a", large, lambda: asks.append(bucket.stat("a")))
    methods = [method for method, _ in store.requests[asked:]]
    assert (methods.count("PUT"), methods.count("POST")) == (3, 2)
    assert stat.size == large.stat().st_size
    assert bucket.read("a")[0] == large.read_bytes()
    assert [stat and stat.size for stat in asks] == [6, 6]  # at the end, too, all is as it was
    bucket.copy("a", "b", stat.size)
    monkeypatch.setattr(buckets, "LARGEST_COPY", 5 << 20)
    bucket.copy("a", "c", stat.size)
    assert {*map(len, (bucket.read("b")[0], bucket.read("c")[0]))} == {stat.size}
    assert bucket.read("c")[0] == large.read_bytes()


@pytest.mark.parametrize("which", ["partNumber=2", "uploadId"])
def test_a_part_that_is_refused_leaves_what_was_there(bucket, store, large, which):
    bucket.write("a", b"before", None)

    def refuse_it(environ, start, _application):
        is_write = environ["REQUEST_METHOD"] in ("PUT", "POST")
        is_it = is_write and which in environ["QUERY_STRING"]
        return refuse("403 Forbidden", start) if is_it else None

    store.fault = refuse_it
    with pytest.raises(PermissionError, match="runs/one/a"):
        bucket.send("a", large, nothing)
    assert bucket.read("a")[0] == b"before"


def test_who_may_not_write_any_more_ends_no_upload(bucket, large):
    """He has lost the bucket while the parts were under way."""
    bucket.write("a", b"before", None)
    leave = iter([True, False])

    def ask():
        if not next(leave):
            raise LostError("it is another's by now")

    with pytest.raises(LostError):
        bucket.send("a", large, ask)
    assert bucket.read("a")[0] == b"before"


def test_a_part_whose_store_is_busy_is_sent_again(bucket, store, large):
    numbers = itertools.count()

    def every_second(_environ, start, _application):
        return refuse("503 Slow Down", start) if next(numbers) % 2 == 0 else None

    store.fault = every_second
    bucket.send("a", large, nothing)
    store.fault = None
    assert bucket.read("a")[0] == large.read_bytes()


def test_the_time_is_the_stores(bucket):
    first, second = bucket.time(), bucket.time()
    assert first <= second
    assert bucket.list() == {}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/run", "not s3://, gs://, az://"),
        ("s3:///run", "not s3://"),
        ("s3://key:S3CRET@bucket/run", "credentials come from the environment"),
        ("s3://bucket/run?X-Amz-Signature=S3CRET", "credentials come from the environment"),
    ],
)
def test_a_url_that_cannot_be_a_runs_is_refused(url, problem):
    with pytest.raises(ValueError, match=problem) as error:
        Bucket(url)
    assert "S3CRET" not in str(error.value)
