import pytest

from workers.base.credentials import shown, shown_settings

AMAZON = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F2026%2Fs3&X-Amz-Date=20261122T000000Z"
    "&X-Amz-Expires=3600&X-Amz-Security-Token=S3CRET&X-Amz-SignedHeaders=host&X-Amz-Signature=S3CRET"
)
GOOGLE = "X-Goog-Algorithm=GOOG4&X-Goog-Credential=S3CRET&X-Goog-Date=1&X-Goog-Signature=S3CRET"
AZURE = "sv=2024-11-04&ss=b&srt=o&sp=r&se=2026-12-01&st=2026-11-01&spr=https&sig=S3CRET%3D"
CLOUDFRONT = "Expires=1&Policy=S3CRET&Signature=S3CRET&Key-Pair-Id=S3CRET"


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://user:S3CRET@a.example/x.warc", "https://a.example/x.warc"),
        ("https://S3CRET@a.example:8080/x", "https://a.example:8080/x"),
        ("ftp://user:S3@CRET@a.example/x", "ftp://a.example/x"),
        ("s3://AKIA:S3/CRET+x@bucket/x", "s3://bucket/x"),
        ("postgres://user:S3CRET@a.example", "postgres://a.example"),
        (f"https://b.s3.amazonaws.com/x?{AMAZON}", "https://b.s3.amazonaws.com/x"),
        (f"https://b.example/x?versionId=7&{AMAZON}", "https://b.example/x?versionId=7"),
        (f"https://storage.googleapis.com/b/x?{GOOGLE}", "https://storage.googleapis.com/b/x"),
        (f"https://a.blob.core.windows.net/b/x?{AZURE}", "https://a.blob.core.windows.net/b/x"),
        (f"https://d1.cloudfront.net/x?{CLOUDFRONT}", "https://d1.cloudfront.net/x"),
        ("https://a/x?AWSAccessKeyId=S3CRET&Signature=S3CRET&Expires=1", "https://a/x"),
        *(
            (f"https://a.example/x?page=2&{name}=S3CRET", "https://a.example/x?page=2")
            for name in (
                *("token", "access_token", "key", "apikey", "api_key", "auth", "password"),
                *("client_secret", "sig", "accessToken", "hf-token", "subscription-key"),
            )
        ),
    ],
)
def test_nothing_secret_is_left_of_a_url(url, left):
    assert shown(url) == left
    assert shown(f"{url}: not found ({url}), '{url}'.") == f"{left}: not found ({left}), '{left}'."
    assert shown(repr(ValueError(url))) == repr(ValueError(left))


@pytest.mark.parametrize(
    "text",
    [
        "no URL at all, token=7",
        "https://a.example/",
        "https://a.example:8080/@user/a&b?page=2&keyword=cat&author=x&sv=1&tokenizer=bpe#top",
        "https://en.example/wiki/A:B@C",
        "http://127.0.0.1:8931/x.png?size=2",
        "C://x",
        "",
    ],
)
def test_everything_else_stays_as_it_is(text):
    assert shown(text) == text


def test_settings_lose_the_secrets_of_their_urls_and_commands():
    settings = {
        "inputs": ["https://u:S3CRET@a/x.warc", "local.warc"],
        "command": [
            *("python", "-m", "server", "--api-token", "S3CRET", "--port", "80"),
            *("--password=S3CRET", "--key", "--tokenizer", "bpe", "-token=S3CRET"),
        ],
        "deep": [{"ready": "http://a/?token=S3CRET"}],
        "number": 3,
        "none": None,
    }
    left = shown_settings(settings)
    assert "S3CRET" not in str(left)
    assert left["inputs"] == ["https://a/x.warc", "local.warc"]
    assert left["command"] == [
        *("python", "-m", "server", "--api-token", "[hidden]", "--port", "80"),
        *("--password=[hidden]", "--key", "--tokenizer", "bpe", "-token=[hidden]"),
    ]
    assert left["deep"] == [{"ready": "http://a/"}]
    assert (left["number"], left["none"]) == (3, None)
