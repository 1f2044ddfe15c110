"""Images over HTTP: whom it connects to, how much and how long it takes, what it calls errors."""

import gzip
import hashlib
import re
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
import zlib
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer

import aiohappyeyeballs
import brotli
import pytest
import zstandard

from pipelines.run.attempts import attempt
from pipelines.run.receipts import Shard
from tests.workers.web import PATIENCE, Answer, moved, serving
from workers.base.failures import FetchError
from workers.base.opt_outs import Kind, OptOuts, normal_entry
from workers.base.settings import DownloadSettings
from workers.base.tally import Tally
from workers.fetch.codings import without_codings
from workers.fetch.fetch_each import fetch_each

BODY = b"a picture" * 100
GOOD = Answer(BODY)
CLOSING = Answer(BODY, headers={"Connection": "close"})
RULES = ("/robots.txt", "/.well-known/tdmrep.json")


def fetched(url, *allowed, opt_outs=(), **settings):
    """The content, or the reason for which there is none."""
    settings = {"retry_pause": 0.0, "allow_private_hosts": allowed, **settings}
    ((asked, result),) = fetch_each([url], DownloadSettings(**settings), opt_outs)
    assert asked == url
    return result.reason if result.content is None else result.content


def images_asked(web):
    """The paths that were asked for, but for those of a host's rules."""
    return [path for path in web.asked if path not in RULES]


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.2:{other}/good.png",  # another port or address of this machine
        "http://127.0.0.1:{other}/good.png",
        "http://localhost:{port}/good.png",
        "http://2130706433:{other}/good.png",
        "http://[::1]:{port}/good.png",
        "http://[::ffff:127.0.0.1]:{port}/good.png",
        "http://0.0.0.0:{port}/good.png",
        "https://127.0.0.1/good.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/good.png",
        "http://[fe80::1]/good.png",
    ],
)
def test_nothing_is_asked_of_a_private_address_that_is_not_named(to):
    with serving({"/good.png": GOOD}) as other, serving({"/good.png": GOOD}) as web:
        target = to.format(port=web.host.split(":")[1], other=other.host.split(":")[1])
        web.answers["/to.png"] = moved(target)
        assert fetched(web.url("/to.png"), web.host) == "private_address"
        assert fetched(target, web.host) == "private_address"
        assert (images_asked(web), other.asked) == (["/to.png"], [])


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("ftp://127.0.0.1/a.png", "not_http"),
        ("file:///etc/hostname", "not_http"),
        ("file://photos/a.png", "not_http"),
        ("gopher://127.0.0.1/", "not_http"),
        ("data:image/png;base64,AAAA", "data_uri"),
        ("http://user:secret@127.0.0.1/a.png", "bad_url"),
        ("http://127.0.0.1:99999/a.png", "bad_url"),
        ("http://" + "a" * 9_000, "bad_url"),
        ("/" + "a" * 9_000, "url_too_long"),
        ("/to.png", "redirect_loop"),
        ("http://a.invalid/", "unknown_host"),
    ],
)
def test_a_redirect_is_held_to_the_rules_of_a_url(to, reason, tmp_path):
    with serving({"/to.png": moved(to)}) as web:
        roots = {"photos": str(tmp_path)}
        assert fetched(web.url("/to.png"), web.host, local_roots=roots) == reason


def test_redirects_lead_where_they_may():
    with serving({"/good.png": GOOD, "/g%20%C3%A4.png": GOOD}) as web:
        web.answers |= {
            "/a.png": moved("/b.png"),
            "/b.png": moved(web.url("/good.png#part")),
            "/c.png": moved("g \xc3\xa4.png"),
            "/none.png": Answer(status=302, headers={}),
        }
        assert fetched(web.url("/a.png"), web.host) == BODY
        assert fetched(web.url("/c.png"), "127.0.0.1") == BODY
        assert fetched(web.url("/none.png"), web.host) == "http_302"


@pytest.mark.parametrize("status", [200, 301, 302, 303, 307, 308])
def test_an_opt_out_of_a_redirect_counts_as_that_of_the_image(status):
    with serving({"/good.png": GOOD}) as web:
        no = Answer(BODY, status, {"Location": "/good.png", "X-Robots-Tag": "noai"})
        other = Answer(status=302, headers={"Location": "/good.png", "X-Robots-Tag": "foo: noai"})
        web.answers |= {"/no.png": no, "/other.png": other}
        assert fetched(web.url("/no.png"), web.host) == "opted_out"
        assert images_asked(web) == ["/no.png"]
        assert fetched(web.url("/other.png"), web.host) == BODY


@pytest.mark.parametrize(
    ("header", "value", "agents", "result"),
    [
        ("tdm-reservation", "1", (), "opted_out"),
        ("TDM-Reservation", "0", (), BODY),
        ("Content-Usage", "search=y, train-ai=n", (), "opted_out"),
        ("Content-Usage", "train-ai=n,", (), BODY),
        ("Content-Signal", "ai-train=no", (), "opted_out"),
        ("X-Robots-Tag", "CCBot: noai \xe4", (), BODY),
        ("X-Robots-Tag", "CCBot: noai \xe4", ("CCBot",), "opted_out"),
    ],
)
def test_every_header_that_may_opt_out_is_heard(header, value, agents, result):
    with serving({"/a.png": Answer(BODY, headers={header: value})}) as web:
        assert fetched(web.url("/a.png"), web.host, obey_agents=agents) == result


ZIPPED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize(
    ("coding", "content", "result"),
    [
        ("gzip", ZIPPED, BODY),
        ("X-GZIP, identity", ZIPPED, BODY),
        ("gzip", gzip.compress(BODY[:50], mtime=0) + gzip.compress(BODY[50:], mtime=0), BODY),
        ("gzip", BODY, BODY),  # it only says so
        ("identity", BODY, BODY),
        ("", BODY, BODY),
        ("gzip", ZIPPED[:-9], "content_encoding"),
        ("gzip", ZIPPED[:10] + b"x" * 50, "content_encoding"),
        ("gzip", ZIPPED + b"more", "content_encoding"),
        ("gzip", gzip.compress(bytes(2_000_000), mtime=0), "too_large"),
        ("deflate", zlib.compress(BODY), "content_encoding"),
        ("br", b"x", "content_encoding"),
        ("gzip, br", ZIPPED, "content_encoding"),
        ("br", brotli.compress(BODY), BODY),
        ("gzip, br", brotli.compress(ZIPPED), BODY),
        ("br", brotli.compress(bytes(2_000_000)), "too_large"),
        ("zstd", zstandard.compress(BODY), BODY),
        ("zstd", BODY, BODY),
        ("zstd", zstandard.compress(BODY)[:-3], "content_encoding"),
        ("zstd", zstandard.compress(bytes(2_000_000)), "too_large"),
        ("gzip, gzip, gzip, gzip", BODY, "content_encoding"),
    ],
)
def test_an_answer_that_is_compressed_unasked_is_read_or_has_a_reason(coding, content, result):
    answer = Answer(content, headers={"Content-Encoding": coding})
    with serving({"/a.png": answer}) as web:
        assert fetched(web.url("/a.png"), web.host, max_bytes=1_000_000) == result


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_connected_to(monkeypatch):
    looked_up, real = [], socket.getaddrinfo

    def rebinding(host, port, *args, **more):
        looked_up.append(host)
        answer = "127.0.0.1" if looked_up.count(host) == 1 else "127.0.0.9"
        return real(answer if host == "a.invalid" else host, port, *args, **more)

    with serving({"/good.png": GOOD}) as web:
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        host = web.host.replace("127.0.0.1", "a.invalid")
        assert fetched(f"http://{host}/good.png", host) == BODY
    assert looked_up.count("a.invalid") == 1


def test_addresses_are_known_for_so_many_names_at_a_time(monkeypatch):
    looked_up, real = [], socket.getaddrinfo

    def noted(host, port, *args, **more):
        looked_up.append(host)
        return real("127.0.0.1", port, *args, **more)

    def asked(most):
        looked_up.clear()
        monkeypatch.setattr("workers.web.client.MAX_NAMES", most)
        hosts = [web.host.replace("127.0.0.1", f"{n}.invalid") for n in (1, 2, 3, 1)]
        urls = [f"http://{host}/{n}.png" for n, host in enumerate(hosts)]
        settings = DownloadSettings(allow_private_hosts=tuple(hosts), robots=False, connections=1)
        results = dict(fetch_each(urls, settings))
        assert all(result.content == BODY for result in results.values())
        return looked_up

    with serving({f"/{n}.png": CLOSING for n in range(4)}) as web:
        monkeypatch.setattr(socket, "getaddrinfo", noted)
        assert asked(10) == ["1.invalid", "2.invalid", "3.invalid"]
        assert asked(1) == ["1.invalid", "2.invalid", "3.invalid", "1.invalid"]


def test_a_port_of_the_web_that_nobody_named_is_not_connected_to(monkeypatch):
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("93.184.215.14", 0))]
    )
    assert fetched("http://a.invalid:8080/a.png", robots=False) == "odd_port"
    assert fetched("http://93.184.215.14:25/a.png", robots=False) == "odd_port"


@pytest.mark.parametrize("url", ["http://a.invalid/a.png", "http://93.184.215.14/a.png"])
def test_no_public_address_is_asked_by_somebody_who_cannot_be_reached(monkeypatch, tmp_path, url):
    """It ends the shard, whatever else is on its list, and says which setting is to be mended."""
    connected, real = [], socket.getaddrinfo
    really_connect = aiohappyeyeballs.start_connection

    def look_up(host, *args, **more):
        return real("93.184.215.14" if host == "a.invalid" else host, *args, **more)

    async def connect(addr_infos, **more):
        connected.append(addr_infos[0][4][0])
        if connected[-1] != "127.0.0.1":
            raise OSError("it is not asked in a test")
        return await really_connect(addr_infos, **more)

    def work(_shard, _out):
        settings = DownloadSettings(
            allow_private_hosts=(web.host,), user_agent=agent, robots=False, retries=0
        )
        results = dict(fetch_each([web.url("/good.png"), url], settings))
        tally = Tally()
        tally.fail(results[url].reason, url, {})
        return {"images": tally}

    with serving({"/good.png": GOOD}) as web:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(aiohappyeyeballs, "start_connection", connect)
        agent = "birds-research (+https://example.org/bot)"
        outcome = attempt(work, Shard("a", "key"), tmp_path / "images")
        assert outcome.mend_first
        assert re.fullmatch(
            r"\S+ is on the public internet; images\.user_agent: the owners of hosts .* add a URL "
            r"or an e-mail address of your own, as in `birds-research \(\+https://DOMAIN/bot\)` .*",
            outcome.error or "",
        )
        assert {*connected} <= {"127.0.0.1"}
        agent = "birds-research (+https://birds-research.org/bot)"
        outcome = attempt(work, Shard("a", "key"), tmp_path / "images")
        assert outcome.receipt
        assert outcome.receipt.rows["images"]["failed"] == {"connection": 1}
        assert "93.184.215.14" in connected


def test_no_proxy_is_asked_which_would_connect_where_it_likes(monkeypatch):
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving({"/good.png": GOOD}) as web:
        assert fetched(web.url("/good.png"), web.host) == BODY


def test_it_says_who_it_is():
    with serving({"/good.png": GOOD}) as web:
        fetched(
            web.url("/good.png"), web.host, user_agent="birds-research (+https://birds.example)"
        )
    (agent,) = web.agents
    assert agent == "birds-research (+https://birds.example)"


def test_only_what_may_pass_is_tried_again():
    answers = {f"/{status}.png": Answer(status=status) for status in (404, 429, 503)}
    with serving(answers | {"/b.png": [Answer(status=500), GOOD]}) as web:
        assert fetched(web.url("/404.png"), web.host) == "http_404"
        assert fetched(web.url("/429.png"), web.host) == "http_429"
        assert fetched(web.url("/503.png"), web.host, retries=2) == "http_503"
        assert fetched(web.url("/b.png"), web.host) == BODY
    assert images_asked(web) == ["/404.png", *["/429.png"] * 2, *["/503.png"] * 3, *["/b.png"] * 2]


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
#: What is sent first and, for those that never end, over and over.
ANSWERS = {
    "/robots.txt": (b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",),
    "/.well-known/tdmrep.json": (b"",),
    "/none": (b"",),
    "/garbage": (b"SSH-2.0-nothing of the web\r\n",),
    "/long_line": (HEAD + b"X: " + b"x" * 70_000,),
    "/many_headers": (HEAD + b"X: x\r\n" * 200 + b"\r\n",),
    "/half_a_head": (HEAD + b"X: x",),
    "/bad_length": (HEAD + b"Content-Length: many\r\n\r\n" + BODY,),
    "/short": (HEAD + b"Content-Length: 5000\r\n\r\n" + BODY,),
    "/short_chunk": (CHUNKED + b"3000\r\n" + BODY,),
    "/no_chunk": (CHUNKED + b"zz\r\n" + BODY,),
    "/chunked": (CHUNKED + b"384\r\n" + BODY + b"\r\n0\r\n\r\n",),
    "/until_closed": (HEAD + b"\r\n" + BODY,),
    "/large": (HEAD + b"Content-Length: 1000000000000\r\n\r\n",),
    "/endless": (HEAD + b"\r\n", b"\0" * 1000),
    "/endless_chunks": (CHUNKED, b"3e8\r\n" + b"\0" * 1000 + b"\r\n"),
    "/large_chunk": (CHUNKED + b"fffffffffff\r\n", b"\0" * 1000),
    "/slow": (HEAD + b"Content-Length: 900000\r\n\r\n", b"x"),
    "/slow_chunk": (CHUNKED, b"1\r\nx\r\n"),
    "/slow_head": (HEAD + b"X: ", b"x"),
    "/more_heads": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/silent": (b"", b""),
    "/silent_in_head": (HEAD + b"X: ", b""),
    "/silent_in_body": (HEAD + b"Content-Length: 5000\r\n\r\n" + BODY, b""),
}  # fmt: skip


class Rude(StreamRequestHandler):
    """Sends what the path asks for, its second part for as long as somebody listens."""

    def handle(self):
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        first, *more = ANSWERS[path]
        try:
            self.wfile.write(first)
            while more and not RudeServer.stopped.wait(0 if len(more[0]) > 900 else 0.02):
                self.wfile.write(more[0])
        except OSError:  # it has seen enough
            pass


class RudeServer(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    stopped = threading.Event()


@pytest.fixture(scope="module")
def rude():
    with RudeServer(("127.0.0.1", 0), Rude) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        RudeServer.stopped.set()
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("none", "connection"),
        ("garbage", "bad_answer"),
        ("long_line", "bad_answer"),
        ("many_headers", "bad_answer"),
        ("half_a_head", "connection"),
        ("bad_length", "bad_answer"),
        ("short", "cut_off"),
        ("short_chunk", "cut_off"),
        ("no_chunk", "bad_answer"),
        ("chunked", BODY),
        ("until_closed", BODY),
    ],
)
def test_answers_of_all_kinds_are_read_or_have_a_reason(rude, path, result):
    assert fetched(f"http://{rude}/{path}", rude, retries=0) == result


@pytest.mark.parametrize("path", ["large", "endless", "endless_chunks", "large_chunk"])
def test_no_more_bytes_are_taken_than_were_allowed(rude, path):
    assert fetched(f"http://{rude}/{path}", rude, max_bytes=50_000) == "too_large"


@pytest.mark.parametrize("path", ["/chunked", "/until_closed"])
def test_as_many_bytes_as_are_allowed_are_taken(rude, path):
    assert fetched(f"http://{rude}{path}", rude, max_bytes=len(BODY)) == BODY
    assert fetched(f"http://{rude}{path}", rude, max_bytes=len(BODY) - 1) == "too_large"


@pytest.mark.parametrize("path", ["slow", "slow_chunk", "slow_head", "more_heads", "silent"])
def test_what_comes_in_drops_ends_with_the_seconds_for_all_of_it(rude, path):
    settings = {"max_seconds": 0.3, "timeout": PATIENCE, "retries": 0}
    assert fetched(f"http://{rude}/{path}", rude, **settings) == "timeout"


@pytest.mark.parametrize("path", ["silent", "silent_in_head", "silent_in_body"])
def test_who_says_nothing_is_not_waited_for(rude, path):
    began = time.monotonic()
    settings = {"max_seconds": PATIENCE, "timeout": 0.3, "retries": 0}
    assert fetched(f"http://{rude}/{path}", rude, **settings) == "timeout"
    assert time.monotonic() - began < PATIENCE / 2


def test_who_takes_no_connection_is_not_waited_for():
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # more than wait: Linux answers no further ones
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        host = f"127.0.0.1:{full.getsockname()[1]}"
        began = time.monotonic()
        settings = {"max_seconds": PATIENCE, "timeout": 0.3, "retries": 0, "robots": False}
        assert fetched(f"http://{host}/a.png", host, **settings) == "timeout"
        assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_no_more_is_unpacked_than_is_allowed(coding):
    plain = bytes(2**26)
    packed = {
        "gzip": lambda: gzip.compress(plain, 1),
        "br": lambda: brotli.compress(plain, quality=1),
        "zstd": lambda: zstandard.compress(plain),
    }[coding]()
    tracemalloc.start()
    with pytest.raises(FetchError, match="too_large"):
        without_codings(packed, [coding], 100_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24


@contextmanager
def serving_tls(folder, name):
    """A server with a certificate for a name, and the certificate's file."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=DNS:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, certificate
        server.shutdown()


def test_a_certificate_is_compared_with_the_name_and_not_the_address(tmp_path, monkeypatch):
    with serving_tls(tmp_path, "localhost") as (port, certificate):
        assert fetched(f"https://localhost:{port}/", "localhost") == "bad_certificate"  # untrusted
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetched(f"https://localhost:{port}/", "localhost") == BODY
        assert fetched(f"https://127.0.0.1:{port}/", "127.0.0.1") == "bad_certificate"
        assert fetched(f"https://localhost:{port}/") == "private_address"
        assert fetched(f"http://localhost:{port}/", "localhost") == "connection"


def refusing(*entries):
    """A fetcher of images of this machine, with these entries taken down, and what it says."""
    taken_down = OptOuts.of(entries, reason="taken_down")
    return lambda web, path: fetched(web.url(path), web.host, opt_outs=[taken_down])


def test_what_is_listed_is_not_asked_for():
    with serving({"/a.png": GOOD, "/to.png": moved("/a.png")}) as web:
        name = normal_entry(Kind.URL, web.url("/a.png?utm_source=x"))
        ask = refusing((Kind.URL, name))
        assert ask(web, "/a.png") == "taken_down"
        assert web.asked == []
        assert ask(web, "/to.png") == "taken_down"
        assert images_asked(web) == ["/to.png"]
        assert refusing((Kind.DOMAIN, "127.0.0.1"))(web, "/to.png") == "taken_down"
        assert refusing((Kind.DOMAIN, "127.0.0.2"))(web, "/to.png") == BODY


def test_an_image_that_is_listed_is_not_kept_wherever_it_comes_from(tmp_path):
    (tmp_path / "a.png").write_bytes(BODY)
    entry = (Kind.SHA256, hashlib.sha256(BODY).hexdigest())
    with serving({"/a.png": GOOD}) as web:
        assert refusing(entry)(web, "/a.png") == "taken_down"
    roots = {"birds": str(tmp_path)}
    for entries in ([entry], [(Kind.URL, "file://birds/a.png")]):
        listed = [OptOuts.of(entries)]
        assert fetched("file://birds/a.png", opt_outs=listed, local_roots=roots) == "opted_out"
