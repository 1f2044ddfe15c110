"""Where a URL or a redirect may lead: cases of addresses, of names and of chains."""

from __future__ import annotations

from benchmarks.hostile_web.answers import answer, by_path, held, hops, moved, raw
from benchmarks.hostile_web.case import RETRIES, Case
from benchmarks.hostile_web.files import LOOKS, PNG

#: The host that `rebinding.test` leads to when it is looked up first.
REBINDING = "rebinding"

_PICTURE = answer(PNG)

#: What a redirect must not lead to: a name for the case, the URL, and the reason.
_FORBIDDEN = {
    "to loopback": ("http://{inside}/{slug}/x.png", "private_address"),
    "to another port of loopback": ("http://127.0.0.1:{other}/{slug}/x.png", "private_address"),
    "to another port of its own host": ("http://{address}:{other}/{slug}/x.png", "private_address"),
    "to localhost": ("http://localhost:{port}/{slug}/x.png", "private_address"),
    "to the cloud's metadata": ("http://169.254.169.254/latest/meta-data/", "private_address"),
    "to IPv4 in IPv6": ("http://[::ffff:127.0.0.1]:{port}/{slug}/x.png", "private_address"),
    "to IPv6 loopback": ("http://[::1]:{port}/{slug}/x.png", "private_address"),
    "to NAT64 of loopback": ("http://[64:ff9b::7f00:1]:{port}/{slug}/x.png", "private_address"),
    "to 6to4 of loopback": ("http://[2002:7f00:1::]:{port}/{slug}/x.png", "private_address"),
    "to a NAT64 of a network's own": ("http://[64:ff9b:1::7f00:1]:{port}/x.png", "private_address"),
    "to Teredo of loopback": ("http://[2001:0:808:808::80ff:fffe]:{port}/x.png", "private_address"),
    "to IPv4-compatible loopback": ("http://[::7f00:1]:{port}/x.png", "private_address"),
    "to translated loopback": ("http://[::ffff:0:7f00:1]:{port}/x.png", "private_address"),
    "to a site-local address": ("http://[fec0::1]:{port}/x.png", "private_address"),
    "to a link-local address": ("http://[fe80::1]:{port}/{slug}/x.png", "private_address"),
    "to an address with a zone": ("http://[fe80::1%25lo]:{port}/{slug}/x.png", "bad_url"),
    "to shared addresses": ("http://100.64.0.1:{port}/{slug}/x.png", "private_address"),
    "to no address at all": ("http://0.0.0.0:{port}/{slug}/x.png", "private_address"),
    "to a decimal host": ("http://2130706433:{port}/{slug}/x.png", "private_address"),
    "to an octal host": ("http://0177.0.0.01:{port}/{slug}/x.png", "private_address"),
    "to a hexadecimal host": ("http://0x7f.1:{port}/{slug}/x.png", "private_address"),
    "to full-width digits": ("http://１２７．０．０．１:{port}/{slug}/x.png", "private_address"),
    "to file:": ("file:///etc/hostname", "not_http"),
    "to ftp:": ("ftp://{address}:{other}/x.png", "not_http"),
    "to gopher:": ("gopher://{address}:{other}/x.png", "not_http"),
    "to data:": ("data:image/png;base64,iVBORw0KGgo=", "data_uri"),
    "with user info": ("http://user:secret@{host}/{slug}/x.png", "bad_url"),
    "to port 99999": ("http://{address}:99999/{slug}/x.png", "bad_url"),
    "to a very long URL": ("/{slug}/" + "a" * 9_000, "url_too_long"),
}


#: What must not be asked for where it stands in the list itself.
_FORBIDDEN_AT_ONCE = {
    "a decimal host": ("http://2130706433:{port}/{slug}/0.png", "private_address"),
    "full-width digits": ("http://１２７．０．０．１:{port}/{slug}/0.png", "private_address"),
    "another port": ("http://{address}:{other}/{slug}/0.png", "private_address"),
    "file:": ("file:///etc/hostname", ("local_file", "not_http")),
    "ftp:": ("ftp://{address}:{other}/x.png", "not_http"),
    "data:": ("data:image/png;base64,iVBORw0KGgo=", "data_uri"),
    "user info": ("http://user:secret@{host}/{slug}/0.png", "bad_url"),
    "a name that leads inside": ("http://inside.test:{port}/{slug}/0.png", "private_address"),
    "a name with a public and a private address": (
        "http://both.test:{port}/{slug}/0.png",
        "private_address",
    ),
    "a name that leads nowhere": (
        "http://nowhere.test:{port}/{slug}/0.png",
        ("unknown_host", "robots_unreachable"),
    ),
}

CASES = [
    *(
        Case(f"redirect {name}", reason, by_path({"/0.png": moved(to)}, _PICTURE))
        for name, (to, reason) in _FORBIDDEN.items()
    ),
    *(
        Case(f"directly: {name}", reasons, _PICTURE, (0, 0), url=url)
        for name, (url, reasons) in _FORBIDDEN_AT_ONCE.items()
    ),
    # More than could hang side by side if each of them held one of a few threads.
    Case(
        "names that no name server answers for",
        "timeout",
        _PICTURE,
        (0, 0),
        url="http://{number}.silent.test/{slug}/0.png",
        urls=40,
    ),
    Case(
        "redirect to a name that no name server answers for",
        "timeout",
        moved("http://redirected.silent.test/{slug}/x.png"),
    ),
    Case(
        "redirect to a name that leads inside",
        "private_address",
        moved("http://inside.test:{port}/{slug}/x.png"),
    ),
    Case(
        "a name that leads inside the second time",
        "kept",
        _PICTURE,
        looks=LOOKS,
        url="http://rebinding.test:{port}/{slug}/0.png",
        host=REBINDING,
    ),
    Case(
        "redirect to a relative URL",
        "kept",
        by_path({"/0.png": moved("../{slug}/b.png#part")}, _PICTURE),
        (2, 2),
        LOOKS,
    ),
    Case(
        "redirect to a URL without a scheme",
        "kept",
        by_path({"/0.png": moved("//{host}/{slug}/b.png")}, _PICTURE),
        (2, 2),
        LOOKS,
    ),
    Case("five redirects", "kept", hops(5, _PICTURE), (6, 6), LOOKS),
    Case("six redirects", "redirect_loop", hops(6, _PICTURE), (6, 6)),
    Case("redirect to itself", "redirect_loop", moved("/{slug}/0.png"), (1, 6)),
    Case(
        "redirects in a circle",
        "redirect_loop",
        by_path({"/a.png": moved("/{slug}/b.png")}, moved("/{slug}/a.png")),
        (2, 6),
    ),
    Case("slow redirects", "timeout", hops(5, _PICTURE, 1.5), (3, 5 * (RETRIES + 1))),
    Case("redirect without Location", "http_302", answer(b"moved", 302)),
    Case("redirect to nothing", ("http_302", "redirect_loop"), moved(""), (1, 6)),
    Case("300 without Location", "http_300", answer(b"choose", 300)),
    Case(
        "plain HTTP where TLS is asked for",
        ("connection", "robots_unreachable"),
        _PICTURE,
        (0, 0),
        url="https://{host}/{slug}/0.png",
        at_accept=raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    ),
    Case(
        "TLS that never begins",
        ("timeout", "robots_unreachable"),
        _PICTURE,
        (0, 0),
        url="https://{host}/{slug}/0.png",
        at_accept=held(),
    ),
    Case(
        "a certificate that nobody trusts",
        ("bad_certificate", "robots_unreachable"),
        _PICTURE,
        (0, 0),
        is_tls=True,
    ),
    Case("a URL on a list", "opted_out", _PICTURE, (0, 0), is_listed=True),
    Case(
        "redirect to a URL on a list",
        "opted_out",
        moved("http://{hosts[listed]}/a-url-that-is-listed/0.png"),
    ),
    Case("a URL that is listed", "opted_out", _PICTURE, (0, 0), host="listed", is_listed=True),
]
